"""The command line, a thin face of the package. `main` is the entry point; `commands` is where to start reading."""

from vaecodec.cli.commands import main
from vaecodec.cli.train import train as _train

main.add_command(_train)

__all__ = ["main"]
