"""The current metadata of a Pillow image, including edits, and ICC profiles made from other colour information."""

import contextlib
import math
import re
import warnings
from typing import Any

from PIL import ExifTags, Image

from vaecodec.format.records import CHUNK_TYPES
from vaecodec.pictures import colour, originals
from vaecodec.pictures import exif as exif_blocks
from vaecodec.pictures.metadata import NAMES, without_thumbnails

_LIMITS = dict(CHUNK_TYPES.values())

_ICC_COLOUR_SPACE = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB "}
_XMP_PREFIX = re.compile(rb"\w+://ns\.adobe\.com/xap/1\.0/\0")
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>))([0-9])""")
_XMP_GPS = re.compile(
    rb"""\s+exif:GPS\w+\s*=\s*(?:"[^"]*"|'[^']*')|<exif:GPS(\w+)\b[^>]*>.*?</exif:GPS\1>""", re.DOTALL
)
_XMP_MOTION = re.compile(rb"""((?:MotionPhoto|MicroVideo)(?:\s*=\s*["']|>))1(?=["'<])""")
_WHITE_POINT, _PRIMARY_CHROMATICITIES = 318, 319  # of TIFF

# A TIFF's first directory mixes tags that lay out its strips with these, which describe the picture: description, make,
# model, resolution and its unit, software, date, artist, host computer, copyright, and Windows' title to subject.
_DESCRIPTIVE_TIFF_TAGS = {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, *range(40091, 40096)}


def carried_metadata(image: Image.Image, stored_mode: str) -> dict[str, bytes]:
    """The metadata of a loaded image by `METADATA_KEYS`; entries that are empty or too long are left out.

    Changes through `getexif()` take precedence over `info["exif"]`. A resolution in `info["dpi"]` goes into EXIF.

    Args:
        image: its pixels are loaded, because some formats store or correct metadata after them.
        stored_mode: "L", "LA", "RGB" or "RGBA"; an ICC profile for another colour space is left out.
    """
    return {key: value for key, value in _found(image, stored_mode).items() if value and len(value) <= _LIMITS[key]}


def left_out(image: Image.Image, stored_mode: str) -> tuple[list[str], list[str]]:
    """Names of what a loaded image holds and a .vaec file cannot: first of the picture, then of its metadata."""
    original = originals.inspect(image)
    lost, lost_metadata = list(original.lost), [*original.lost_metadata, *originals.lost_texts(image)]
    icc_profile, space = _icc_profile(image), _ICC_COLOUR_SPACE[stored_mode]
    for key, data in _found(image, stored_mode).items():
        if len(data) > _LIMITS[key]:
            names = lost if key == "icc_profile" else lost_metadata
            names.append(f"{NAMES[key]} of more than {_LIMITS[key]:,} bytes")
    if image.mode == "CMYK" and icc_profile:
        if colour.to_srgb(Image.new("CMYK", (1, 1)), icc_profile) is None:
            lost.append("the ICC profile, which is unusable: colours are a guess")
    elif icc_profile and icc_profile[16:20] != space and image.mode != "LAB":
        found = icc_profile[16:20].decode("latin-1").strip()
        lost.append(f"the ICC profile, which is for {found}, not {space.decode().strip()}")
    if original.code_points and (image.format == "PNG" or not icc_profile):
        primaries, transfer = original.code_points
        if not colour.knows_code_points(primaries, transfer) and not icc_profile:
            lost.append(f"colours of the code points {primaries}, {transfer}: they become sRGB")
        elif transfer == colour.PQ:
            lost.append("light of more than 1000 nits (HDR, PQ)")
    return lost, lost_metadata


def _found(image: Image.Image, stored_mode: str) -> dict[str, bytes]:
    exif, is_edited = _carried_exif(image)
    found = {
        "icc_profile": _profile(image, stored_mode),
        "exif": exif_blocks.with_resolution(exif, dpi) if (dpi := _dpi(image)) else exif,
        "xmp": _carried_xmp(image, exif, is_edited=is_edited),
    }
    if not originals.inspect(image).is_file:  # thumbnails may still show what a program has cropped or painted over
        return without_thumbnails(found)
    return found


def _carried_exif(image: Image.Image) -> tuple[bytes, bool]:
    """The current EXIF block, without prefix, and whether it was changed since the picture was opened."""
    stored = image.info.get("exif")
    if isinstance(stored, Image.Exif):
        return _written(stored), True
    if not isinstance(stored, bytes):
        stored = originals.raw_profile(image, "exif", "app1")
        stored = b"" if _XMP_PREFIX.match(stored) else stored
    handed_out = getattr(image, "_exif", None)  # the object that getexif() returned and caches
    if hasattr(image, "tag_v2") and not stored:
        try:
            exif = _descriptive_exif(image.getexif())
        except Exception:  # Pillow's reader of EXIF fails in many ways
            return b"", False
        had_gps = ExifTags.IFD.GPSInfo in getattr(image, "tag_v2", {})
        return _written(exif), had_gps and ExifTags.IFD.GPSInfo not in exif
    if not isinstance(handed_out, Image.Exif):
        return exif_blocks.without_prefix(stored), False
    loaded = getattr(handed_out, "_loaded_exif", None) or b""
    if stored and loaded and exif_blocks.without_prefix(loaded) != exif_blocks.without_prefix(stored):
        return exif_blocks.without_prefix(stored), True  # the block was replaced since
    if not _is_edited(handed_out, loaded, image):
        return exif_blocks.without_prefix(stored), False
    return _written(handed_out), True


def _is_edited(exif: Image.Exif, loaded: bytes, image: Image.Image) -> bool:
    """Whether tags differ from the loaded ones; an orientation that Pillow took from XMP does not count."""
    try:
        before = Image.Exif()
        before.load(loaded)
        old, new = _tags_of(before), _tags_of(exif)
    except Exception:  # Pillow's reader of EXIF fails in many ways
        return True
    orientation = ExifTags.Base.Orientation
    if orientation in new and orientation not in old and new[orientation] == _xmp_orientation(_packet(image)):
        del new[orientation]
    return old != new


def _tags_of(exif: Image.Exif) -> dict[int, Any]:
    """All tags that are not empty, including those of subdirectories."""
    tags = {tag: exif[tag] for tag in exif}
    for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if tag in tags or getattr(exif, "_ifds", {}).get(tag):
            below = dict(exif.get_ifd(tag))
            if ExifTags.IFD.Interop in below:
                below[ExifTags.IFD.Interop] = dict(exif.get_ifd(ExifTags.IFD.Interop))
            tags[tag] = below
    return {tag: value for tag, value in tags.items() if value != {}}


def _written(exif: Image.Exif) -> bytes:
    """The block as Pillow writes it; b"" with a warning if it cannot, because the old block may hold deleted tags."""
    try:
        data = exif.tobytes()
    except Exception as error:
        warnings.warn(f"EXIF cannot be written and is dropped ({error})", UserWarning, stacklevel=2)
        return b""
    return b"" if data == Image.Exif().tobytes() else exif_blocks.without_prefix(data)


def _descriptive_exif(exif: Image.Exif) -> Image.Exif:
    kept = Image.Exif()
    for tag in exif:
        if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            # The interoperability entry is an offset into the old file.
            kept[tag] = {key: value for key, value in exif.get_ifd(tag).items() if key != ExifTags.IFD.Interop}
        elif tag in _DESCRIPTIVE_TIFF_TAGS:
            kept[tag] = exif[tag]
    return kept


def _packet(image: Image.Image) -> bytes:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if not xmp:
        xmp = originals.raw_profile(image, "xmp") or originals.raw_profile(image, "app1")
        xmp = _XMP_PREFIX.sub(b"", xmp, count=1)
        xmp = xmp if xmp.lstrip().startswith(b"<") else b""  # a profile APP1 may also be EXIF
    if isinstance(xmp, str):
        return xmp.encode(errors="ignore")
    return xmp if isinstance(xmp, bytes) else b""


def _carried_xmp(image: Image.Image, exif: bytes, *, is_edited: bool) -> bytes:
    """The XMP packet, consistent with the current EXIF block, and without references to dropped content."""
    xmp = _packet(image)
    if not xmp:
        return b""
    orientation = exif_blocks.orientation(exif)
    if orientation is None and (
        is_edited or hasattr(image, "tag_v2")
    ):  # deleted, or already applied, as Pillow does for TIFF
        orientation = 1
    if orientation is not None:
        xmp = _XMP_ORIENTATION.sub(rb"\g<1>%d" % orientation, xmp)
    if is_edited and not _has_gps(exif):
        xmp = _XMP_GPS.sub(b"", xmp)
    return _XMP_MOTION.sub(rb"\g<1>0", xmp)


def _xmp_orientation(xmp: bytes) -> int | None:
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[2]) if match else None


def _has_gps(exif: bytes) -> bool:
    with contextlib.suppress(Exception):
        found = Image.Exif()
        found.load(exif)
        return bool(found.get_ifd(ExifTags.IFD.GPSInfo))
    return False


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """The resolution of a file outside EXIF; 72 is ignored, because many programs write it as a default."""
    dpi = image.info.get("dpi")
    if hasattr(image, "tag_v2") or (image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") not in (1, 2)):
        return None  # TIFF has it in its tags; for others it is Pillow's default
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None
    try:
        across, down = float(dpi[0]), float(dpi[1])
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    is_valid = all(math.isfinite(each) and 1 <= each < 1e6 for each in (across, down))
    return (across, down) if is_valid and (round(across), round(down)) != (72, 72) else None


def _profile(image: Image.Image, stored_mode: str) -> bytes:
    """The ICC profile, or one made from equivalent colour information; b"" for sRGB."""
    icc_profile = _icc_profile(image)
    original = originals.inspect(image)
    is_grey = len(stored_mode) < 3
    points = original.code_points
    # In PNG the code points take precedence, elsewhere the profile.
    if points and colour.knows_code_points(*points) and (image.format == "PNG" or not icc_profile):
        icc_profile = colour.of_code_points(*points, is_grey=is_grey)
    elif not icc_profile and image.mode != "CMYK":
        icc_profile = _made_profile(image, original, is_grey=is_grey)
    return icc_profile if icc_profile[16:20] == _ICC_COLOUR_SPACE[stored_mode] else b""


def _icc_profile(image: Image.Image) -> bytes:
    icc_profile = image.info.get("icc_profile") or originals.raw_profile(image, "icc", "icm")
    return icc_profile if isinstance(icc_profile, bytes) else b""


def _made_profile(image: Image.Image, original: originals.Original, *, is_grey: bool) -> bytes:
    """A profile made from the gamma and chromaticities of PNG, or from two tags of TIFF."""
    gamma, chromaticities = image.info.get("gamma"), image.info.get("chromaticity")
    tags = getattr(image, "tag_v2", {})
    if _WHITE_POINT in tags and _PRIMARY_CHROMATICITIES in tags:
        chromaticities = (*tags[_WHITE_POINT], *tags[_PRIMARY_CHROMATICITIES])
    if original.is_srgb or "srgb" in image.info or (gamma is None and chromaticities is None):
        return b""
    try:
        numbers = None if chromaticities is None else [float(each) for each in chromaticities]
        if numbers is not None and len(numbers) != 8:
            return b""
        return colour.of_gamma(None if gamma is None else float(gamma), numbers, is_grey=is_grey)
    except (TypeError, ValueError, ZeroDivisionError):
        return b""
