"""`python -m vaecodec`: the command line."""

from vaecodec.cli import main

main(prog_name="vaecodec")
