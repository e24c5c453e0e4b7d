"""How what a file tells of itself is shown in a console and in a notebook."""

import html
from collections import Counter
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from vaecodec.format.records import Info


class Shown:
    """Gives `Info` a short line, and a small table in notebooks, instead of every byte of its metadata."""

    def __repr__(self) -> str:
        return f"<Info: {', '.join(text for _, text in _facts(cast('Info', self)))}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in _facts(cast("Info", self))
        )
        return f"<table>{rows}</table>"


def _facts(info: "Info") -> list[tuple[str, str]]:
    header, modes = info.header, Counter(entry.mode.name.lower() for entry in info.index)
    bpp = 8 * info.file_bytes / (header.width * header.height)
    facts = [
        ("picture", f"{header.width} x {header.height} {header.pixel_format.mode}"),
        ("quality", f"quality {header.quality}"),
        ("size", f"{info.file_bytes:,} bytes, {bpp:.3f} bpp"),
        ("tiles", "tiles: " + " + ".join(f"{count} {mode}" for mode, count in modes.items())),
    ]
    if info.metadata:
        facts.append(("metadata", " + ".join(f"{key} ({len(data):,} bytes)" for key, data in info.metadata.items())))
    return facts
