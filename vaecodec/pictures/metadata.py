"""The metadata of a picture, EXIF, ICC profile and XMP: found on a Pillow image, overridden by a caller, given back."""

from collections.abc import Mapping

from PIL import ExifTags, Image

from vaecodec.errors import VaecImageError

METADATA_KEYS = ("icc_profile", "exif", "xmp")

_ICC_COLOUR_SPACE = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB "}
_EXIF_PREFIX = b"Exif\0\0"

# A TIFF's first directory mixes tags that lay out its strips with these, which describe the picture: description, make,
# model, resolution and its unit, software, date, artist, host computer, copyright, and Windows' title to subject.
_DESCRIPTIVE_TIFF_TAGS = {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, *range(40091, 40096)}


def carried_metadata(image: Image.Image, stored_mode: str) -> dict[str, bytes]:
    """What a loaded image carries, with those of `METADATA_KEYS` as keys that are not empty.

    Args:
        image: its pixels are loaded, since some formats hold or correct metadata after them.
        stored_mode: "L", "LA", "RGB" or "RGBA"; an ICC profile of another colour space is left out.
    """
    icc_profile = image.info.get("icc_profile")
    if not isinstance(icc_profile, bytes) or icc_profile[16:20] != _ICC_COLOUR_SPACE[stored_mode]:
        icc_profile = b""
    found = {"icc_profile": icc_profile, "exif": _carried_exif(image), "xmp": _carried_xmp(image)}
    return {key: value for key, value in found.items() if value}


def merge_metadata(carried: Mapping[str, bytes], **overrides: object) -> dict[str, bytes]:
    """Applies a caller's explicit metadata to what the picture carries.

    Args:
        carried: the result of `metadata_of`.
        **overrides: any of `METADATA_KEYS`. None or b"" drops the entry; bytes replace it, as do a `PIL.Image.Exif`
            for exif and a str for xmp. A key that is not named keeps what was carried.

    Returns:
        A new dict in the form of `metadata_of`.

    Raises:
        VaecImageError: an unknown key, a value of the wrong type, or one that cannot be written as bytes (METADATA).
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


def _without_exif_prefix(data: bytes) -> bytes:
    while data.startswith(_EXIF_PREFIX):
        data = data[len(_EXIF_PREFIX) :]
    return data


def _carried_exif(image: Image.Image) -> bytes:
    stored = image.info.get("exif")
    if isinstance(stored, bytes):
        return _without_exif_prefix(stored)
    try:
        exif = stored if isinstance(stored, Image.Exif) else image.getexif()
        data = (_descriptive_exif(exif) if hasattr(image, "tag_v2") else exif).tobytes()
        return b"" if data == Image.Exif().tobytes() else _without_exif_prefix(data)
    except Exception:
        return b""


def _descriptive_exif(exif: Image.Exif) -> Image.Exif:
    kept = Image.Exif()
    for tag in exif:
        if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            # The interoperability entry is an offset into the old file.
            kept[tag] = {key: value for key, value in exif.get_ifd(tag).items() if key != ExifTags.IFD.Interop}
        elif tag in _DESCRIPTIVE_TIFF_TAGS:
            kept[tag] = exif[tag]
    return kept


def _carried_xmp(image: Image.Image) -> bytes:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        return xmp.encode(errors="ignore")
    return xmp if isinstance(xmp, bytes) else b""


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
    return _without_exif_prefix(value or b"") if key == "exif" else value or b""


def as_info(metadata: Mapping[str, bytes]) -> dict[str, bytes]:
    """The entries of a Pillow image's `info`: EXIF gets the prefix that Pillow's JPEG and PNG readers leave there."""
    info = {key: metadata[key] for key in METADATA_KEYS if key in metadata}
    return {key: _EXIF_PREFIX + value if key == "exif" else value for key, value in info.items()}
