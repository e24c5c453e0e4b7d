"""The command line, a thin face of the package. `main` is the entry point; `commands` is where to start reading."""

from vaecodec.cli.commands import main

__all__ = ["main"]
