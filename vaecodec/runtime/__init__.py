"""What any program on an operating system needs: files written whole, memory that runs out, forks, threads."""
