"""Overwrites one file for ever, with the contents of several sources in turn. Whoever started it kills it.

Usage: `python overwriter.py once|ever WAY TARGET SOURCE...`; it prints a line once it has written each source.
"""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

import vaecodec.codec
from vaecodec.cli import main
from vaecodec.runtime.files import write_whole


def by_command(target: str, source: str) -> None:
    """`vaecodec decode -f`: a .vaec file becomes a picture."""
    _run("decode", source, target)


def by_encoding(target: str, source: str) -> None:
    """`vaecodec encode -f`, with the built-in weights."""
    _run("encode", source, target)


def by_writer(target: str, source: str) -> None:
    """The writer alone: a copy."""
    write_whole(target, Path(source).read_bytes())


def by_pillow(target: str, source: str) -> None:
    """`Image.save`, with an encoder that needs no weights."""
    with Image.open(source) as image:
        image.save(target)


WAYS: dict[str, Callable[[str, str], None]] = {
    "command": by_command,
    "encoding": by_encoding,
    "writer": by_writer,
    "pillow": by_pillow,
}


def _run(command: str, source: str, target: str) -> None:
    code = main([command, source, "-o", target, "-f", "--quiet"], standalone_mode=False)
    if code:
        raise SystemExit(code)


def _encode_without_weights() -> None:
    from lossless_codec import LosslessCodec

    vaecodec.codec.encode = lambda image, **_: LosslessCodec().encode(image)


if __name__ == "__main__":
    how_long, way, target, *sources = sys.argv[1:]
    if way == "pillow":
        _encode_without_weights()
    for source in sources:
        WAYS[way](target, source)
    print("ready", flush=True)
    for source in itertools.cycle(sources if how_long == "ever" else ()):
        WAYS[way](target, source)
