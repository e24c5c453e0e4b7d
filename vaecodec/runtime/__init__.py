"""Operating system services: atomic files, forks, interrupts, threads."""
