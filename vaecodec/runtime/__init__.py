"""Operating system services: atomic files, forks, threads."""
