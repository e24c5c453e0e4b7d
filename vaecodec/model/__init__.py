"""The networks: the only run-time folder with torch."""
