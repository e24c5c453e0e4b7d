"""EXIF, ICC profile and XMP of a picture: caller overrides, Pillow's `info`, and metadata for parts of a picture."""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from PIL import Image

from vaecodec.errors import VaecImageError
from vaecodec.pictures import exif as exif_blocks

METADATA_KEYS = ("icc_profile", "exif", "xmp")
NAMES = {"icc_profile": "the ICC profile", "exif": "EXIF", "xmp": "XMP"}


class Kept(Enum):
    """The default for metadata arguments: keep the picture's own."""

    KEEP = "as the picture has it"

    def __repr__(self) -> str:
        return self.name


KEEP: Final = Kept.KEEP
Exif = bytes | Image.Exif | Kept | None
IccProfile = bytes | Kept | None
Xmp = bytes | str | Kept | None

_XMP_THUMBNAILS = re.compile(rb"<((?:xmp|xap):Thumbnails)\b[^>]*>.*?</\1>", re.DOTALL)


def merge_metadata(carried: Mapping[str, bytes], **overrides: object) -> dict[str, bytes]:
    """Applies a caller's metadata overrides to the metadata of a picture.

    Args:
        carried: the result of `metadata_of`.
        **overrides: any of `METADATA_KEYS`. None or b"" drops the entry; bytes replace it, as do a `PIL.Image.Exif`
            for exif and a str for xmp. Other keys keep their entries.

    Returns:
        A new dict, like that of `metadata_of`.

    Raises:
        VaecImageError: (METADATA) a key is unknown, or a value has the wrong type or cannot be written as bytes.
    """
    merged = {key: carried[key] for key in METADATA_KEYS if key in carried}
    for key, value in overrides.items():
        if key not in METADATA_KEYS:
            raise VaecImageError(f"metadata key is {key!r}, must be one of {METADATA_KEYS}", code="METADATA")
        data = _override_bytes(key, value)
        merged.pop(key, None)
        if data:
            merged[key] = data
    return merged


def without_thumbnails(metadata: Mapping[str, bytes]) -> dict[str, bytes]:
    """Metadata without thumbnails, for cropped or changed pictures, of which they would show the original."""
    found = dict(metadata)
    if found.get("exif"):
        found["exif"] = exif_blocks.without_thumbnail(found["exif"])
    if found.get("xmp"):
        found["xmp"] = _XMP_THUMBNAILS.sub(b"", found["xmp"])
    return found


def as_info(metadata: Mapping[str, bytes]) -> dict[str, Any]:
    """Entries for a Pillow image's `info`: EXIF gets the prefix that Pillow's JPEG and PNG readers leave there.

    A resolution in EXIF also becomes "dpi".
    """
    info: dict[str, Any] = {key: metadata[key] for key in METADATA_KEYS if key in metadata}
    if "exif" in info:
        dpi = exif_blocks.resolution_dpi(info["exif"])
        info |= {"exif": exif_blocks.PREFIX + info["exif"]} | ({"dpi": dpi} if dpi else {})
    return info


def _override_bytes(key: str, value: object) -> bytes:
    try:
        if key == "exif" and isinstance(value, Image.Exif):
            value = value.tobytes()
        elif key == "xmp" and isinstance(value, str):
            value = value.encode()
    except Exception as error:  # Pillow writes whatever objects a caller put into an Exif, and fails in as many ways.
        raise VaecImageError(f"metadata {key} cannot be written as bytes: {error}", code="METADATA") from error
    if value is not None and not isinstance(value, bytes):
        allowed = {"exif": "bytes, PIL.Image.Exif", "xmp": "bytes, str"}.get(key, "bytes")
        raise VaecImageError(f"metadata {key} is a {type(value).__name__}, must be {allowed} or None", code="METADATA")
    return exif_blocks.without_prefix(value or b"") if key == "exif" else value or b""
