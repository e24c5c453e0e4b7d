"""Inspects picture files for what Pillow does not report: bit depth, code points of colours, content that gets lost.

Pillow reads most of a file, but reduces 16 bits to 8, ignores colour code points, and does not report what follows a
picture. `inspect` looks into the file itself: its beginning and its last bytes. Pillow reads some formats through other
packages; `open_with_package` uses them if they are installed, and names them otherwise.
"""

import contextlib
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, ImageFile

from vaecodec.errors import VaecImageError

_ATTRIBUTE = "_vaecodec_original"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD_BYTES = 1 << 18  # enough for everything that is inspected
_TAIL_BYTES = 1 << 16
_VIDEO = re.compile(rb"MotionPhoto_Data|\0\0\0.ftyp", re.DOTALL)
_MOTION = re.compile(rb"""(?:MotionPhoto|MicroVideo)(?:="|='|>)1""")
_GAIN_MAP = re.compile(rb"hdrgm:Version|hdrgainmap|HDRGainMap")
_PNM_HEADER = re.compile(rb"P[1-7fF](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+(\d{1,9})\s")
_TIFF_TAGS = {
    33723: "IPTC", 34377: "Photoshop's data", 37724: "Photoshop's layers", 330: "further pictures (SubIFDs)",
    33550: "georeference", 34735: "georeference", 42112: "GDAL's metadata", 50838: "ImageJ's metadata",
}  # fmt: skip
_REDUCED = 1  # value of NewSubfileType: the picture is a small copy of another one in the file
_RAW_PROFILES = re.compile(r"Raw profile type (\w+)", re.IGNORECASE)
_SILENT_TEXTS = ("date:create", "date:modify", "date:timestamp", "XML:com.adobe.xmp", "xmp")


@dataclass(frozen=True)
class Original:
    """The findings about the file of a picture.

    Attributes:
        bits: bits per sample.
        code_points: primaries and transfer of H.273; None if the file has none.
        is_srgb: whether a chunk marks the picture as sRGB.
        is_rounded: whether rounding to 8 bits loses less than the file's own codec did.
        is_file: whether the file itself is to be stored, not an image that a program made from it.
        lost: content that a .vaec file cannot hold, other than metadata, such as further frames.
        lost_metadata: metadata that a .vaec file cannot hold.
    """

    bits: int = 8
    code_points: tuple[int, int] | None = None
    is_srgb: bool = False
    is_rounded: bool = False
    is_file: bool = False
    lost: tuple[str, ...] = ()
    lost_metadata: tuple[str, ...] = ()

    @property
    def is_too_deep(self) -> bool:
        """Whether the picture has more bits per sample than a .vaec file can hold."""
        return self.bits > 8 and not self.is_rounded


def inspect(image: Image.Image, *, is_file: bool = False) -> Original:
    """Inspects the file of an image, preferably before its pixels are loaded; the findings are stored in the image.

    Args:
        image: any image; without a file, nothing is known.
        is_file: see `Original`.
    """
    if not isinstance(image, ImageFile.ImageFile):
        return Original()
    found = getattr(image, _ATTRIBUTE, None)
    if not isinstance(found, Original):
        found = _look(image)
    if is_file and not found.is_file:
        found = replace(found, is_file=True, lost=(*found.lost, *_further_frames(image)))
    setattr(image, _ATTRIBUTE, found)
    return found


def texts_of(image: Image.Image) -> dict[str, str]:
    """The texts of a loaded PNG file."""
    texts = getattr(image, "text", None) if image.format == "PNG" else None
    return {str(key): str(value) for key, value in texts.items()} if isinstance(texts, dict) else {}


def raw_profile(image: Image.Image, *names: str) -> bytes:
    """Metadata that ImageMagick stored in a PNG file as hexadecimal text; b"" if there is none."""
    for key, text in image.info.items():
        match = _RAW_PROFILES.fullmatch(key) if isinstance(key, str) and isinstance(text, str) else None
        if match and match[1].lower() in names:
            with contextlib.suppress(ValueError):
                lines = text.split("\n")  # an empty line, the type and the length come first, unless Pillow wrote it
                return bytes.fromhex("".join(lines[3:] if len(lines) > 3 else lines))
    return b""


def lost_texts(image: Image.Image) -> list[str]:
    """Names of the texts of a loaded PNG file that a .vaec file cannot hold."""
    names = []
    for key in texts_of(image):
        match = _RAW_PROFILES.fullmatch(key)
        kind = match[1].lower() if match else ""
        if kind in ("iptc", "8bim"):
            names.append("IPTC")
        elif kind not in ("exif", "app1", "xmp", "icc", "icm") and key not in _SILENT_TEXTS:
            names.append(key if key.isprintable() and len(key) < 80 else repr(key[:80]))
    others = [name for name in names if name != "IPTC"]
    return (["IPTC"] if "IPTC" in names else []) + ([f"text ({', '.join(others)})"] if others else [])


def _look(image: ImageFile.ImageFile) -> Original:
    found = Original()
    probe = _PROBES.get(image.format or "")
    if probe is None:
        return replace(found, bits=16 if _has_deep_tiles(image) else 8)
    try:
        with _file_of(image) as file:
            return probe(image, file, found)
    except Exception:  # files fail in many ways; Pillow's reader will report it
        return found


@contextlib.contextmanager
def _file_of(image: Any) -> Iterator[BinaryIO]:
    """The file of an image, from its beginning; an empty file if it is gone."""
    for name in ("fp", "_fp"):
        file = getattr(image, name, None)
        if file is not None and not getattr(file, "closed", True) and hasattr(file, "seek"):
            place = file.tell()
            try:
                file.seek(0)
                yield file
            finally:
                file.seek(place)
            return
    path = getattr(image, "filename", "")
    if path and os.path.isfile(path):
        with open(path, "rb") as file:
            yield file
        return
    raise FileNotFoundError


def _has_deep_tiles(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow would reduce 16-bit samples to 8."""
    arguments = [tile[3] for tile in image.tile]
    raw_modes = [each[0] if isinstance(each, tuple) and each else each for each in arguments]
    return any(isinstance(raw_mode, str) and ";16" in raw_mode for raw_mode in raw_modes)


def _further_frames(image: Any) -> Iterator[str]:
    """Names of further frames of a file; the previews of a photograph are named as such."""
    try:
        frames = int(getattr(image, "n_frames", 1)) - 1
    except Exception:  # a damaged frame
        frames = 0
    if frames > 0 and image.format != "PSD":  # frames of PSD are layers of one picture
        yield f"{frames} further frame{'s' if frames > 1 else ''}"


def _of_png(image: ImageFile.ImageFile, file: BinaryIO, found: Original) -> Original:
    if file.read(8) != _SIGNATURE:
        return found
    lost = []
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        kind, length = head[4:], int.from_bytes(head[:4])
        if kind in (b"IHDR", b"cICP"):
            data = file.read(length)[:13]
            file.seek(4, os.SEEK_CUR)
            if kind == b"IHDR":
                found = replace(found, bits=data[8])
            elif len(data) == 4:
                found = replace(found, code_points=(data[0], data[1]))
            continue
        found = replace(found, is_srgb=found.is_srgb or kind == b"sRGB")
        lost += ["content credentials (C2PA)"] if kind == b"caBX" else []
        file.seek(length + 4, os.SEEK_CUR)
    return replace(found, lost_metadata=tuple(lost))


def _of_jpeg(image: Any, file: BinaryIO, found: Original) -> Original:
    lost_metadata, lost = [], []
    segments = [(str(name), bytes(data)) for name, data in getattr(image, "applist", ())]
    starts = {
        "extended XMP": ("APP1", b"://ns.adobe.com/xmp/extension/"), "thermal image": ("APP1", b"FLIR\0"),
        "content credentials (C2PA)": ("APP11", b"JP"), "FlashPix data": ("APP2", b"FPXR\0"),
    }  # fmt: skip
    for name, (marker, start) in starts.items():
        if any(kind == marker and start in data[: len(start) + 8] for kind, data in segments):
            lost_metadata.append(name)
    resources = image.info.get("photoshop") or {}
    if 0x0404 in resources:
        lost_metadata.append("IPTC")
    if image.info.get("comment"):
        lost_metadata.append("comment")
    xmp = image.info.get("xmp", b"")
    if _GAIN_MAP.search(xmp) or any(data.startswith(b"urn:iso:std:iso:ts:21496:-1") for _, data in segments):
        lost.append("gain map")
    if _MOTION.search(xmp) or _has_video_behind(file):
        lost.append("motion video")
    return replace(found, lost=tuple(lost), lost_metadata=tuple(lost_metadata))


def _has_video_behind(file: BinaryIO) -> bool:
    """Whether a video follows a JPEG picture: the file then does not end with an end-of-image marker."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read().rstrip(b"\0")
    if tail.endswith(b"\xff\xd9") or not tail:
        return False
    file.seek(0)
    return bool(_VIDEO.search(file.read()))


def _of_tiff(image: Any, file: BinaryIO, found: Original) -> Original:
    tags = image.tag_v2
    bits = tags.get(258, (1,))
    lost = ["all but a small copy of the picture"] if int(tags.get(254, 0)) & _REDUCED and tags.get(330) else []
    lost_metadata = dict.fromkeys(name for tag, name in _TIFF_TAGS.items() if tag in tags)
    return replace(
        found, bits=max(bits) if isinstance(bits, tuple) else int(bits),
        lost=tuple(lost), lost_metadata=tuple(lost_metadata),
    )  # fmt: skip


def _of_pnm(image: ImageFile.ImageFile, file: BinaryIO, found: Original) -> Original:
    head = file.read(4096)
    match = _PNM_HEADER.match(head)
    is_bitmap = head[:2] in (b"P1", b"P4")
    return replace(found, bits=16 if match and not is_bitmap and int(match[1]) > 255 else 8)


def _of_boxes(image: Any, file: BinaryIO, found: Original) -> Original:
    """AVIF and HEIC."""
    head = file.read(_HEAD_BYTES)
    if head[4:8] != b"ftyp":
        return _of_heif_info(image, found)
    bits = max(depth_of(head), int(image.info.get("bit_depth") or 8))
    lost = ["gain map"] if has_gain_map(head) else []
    lost += [f"precision beyond 8 of {bits} bits per sample"] if bits > 8 else []
    lost += ["depth map"] if image.info.get("depth_images") else []
    return replace(found, bits=bits, is_rounded=True, code_points=code_points_of(head), lost=tuple(lost))


def _of_heif_info(image: Any, found: Original) -> Original:
    """What pillow-heif reports about a picture whose file is gone."""
    nclx, bits = image.info.get("nclx_profile") or {}, int(image.info.get("bit_depth") or 8)
    names = ("color_primaries", "transfer_characteristics")
    points = (int(nclx[names[0]]), int(nclx[names[1]])) if all(name in nclx for name in names) else None
    lost = (f"precision beyond 8 of {bits} bits per sample",) if bits > 8 else ()
    return replace(found, bits=bits, is_rounded=True, code_points=points, lost=lost)


def _of_jpeg2000(image: ImageFile.ImageFile, file: BinaryIO, found: Original) -> Original:
    head = file.read(4096)
    at = head.find(b"\xff\x4f\xff\x51")  # the codestream's first markers; the bit depth follows 42 bytes later
    if at < 0 or len(head) <= at + 42:
        return found
    return replace(found, bits=(head[at + 42] & 0x7F) + 1)


def _of_sgi(image: ImageFile.ImageFile, file: BinaryIO, found: Original) -> Original:
    head = file.read(4)
    return replace(found, bits=8 * head[3] if head[:2] == b"\x01\xda" else 8)


_PROBES: dict[str, Callable[[Any, BinaryIO, Original], Original]] = {
    "PNG": _of_png, "JPEG": _of_jpeg, "MPO": _of_jpeg, "TIFF": _of_tiff, "PPM": _of_pnm, "AVIF": _of_boxes,
    "HEIF": _of_boxes, "JPEG2000": _of_jpeg2000, "SGI": _of_sgi,
}  # fmt: skip


# --- boxes of AVIF and HEIC files (ISO 14496-12) ----------------------------------------------------------------------

_FULL_BOX_BYTES = 4  # version and flags
_MAX_BOXES = 4096


class _Box(NamedTuple):
    kind: bytes
    data: bytes


def code_points_of(head: bytes) -> tuple[int, int] | None:
    """Primaries and transfer (H.273) of the primary picture; None if the file has none, or has a profile.

    Args:
        head: the beginning of the file, including its whole "meta" box.
    """
    colours = [data for kind, data in _properties(head) if kind == b"colr"]
    if any(data[:4] in (b"prof", b"rICC") for data in colours):
        return None
    for data in colours:
        if data[:4] == b"nclx" and len(data) >= 8:
            primaries, transfer = struct.unpack_from(">HH", data, 4)
            return primaries, transfer
    return None


def depth_of(head: bytes) -> int:
    """Bits per sample of the primary picture; 8 if the file does not say."""
    for kind, data in _properties(head):
        if kind == b"pixi" and len(data) > _FULL_BOX_BYTES + 1:
            return max(data[_FULL_BOX_BYTES + 1 :][: data[_FULL_BOX_BYTES]], default=8)
    for kind, data in _properties(head):
        if kind == b"av1C" and len(data) > 2:
            is_deep, is_twelve = data[2] & 0x40, data[2] & 0x20
            return (12 if is_twelve else 10) if is_deep else 8
    return 8


def has_gain_map(head: bytes) -> bool:
    """Whether there is a gain map: an item of type "tmap", or Apple's auxiliary picture."""
    meta = _content(head, b"meta")
    return b"tmap" in meta or b"hdrgainmap" in meta


def _properties(head: bytes) -> list[_Box]:
    """The properties of the primary item, in order; those of all items if the file does not associate them."""
    meta = _content(head, b"meta")[_FULL_BOX_BYTES:]
    boxes = dict(_boxes(meta))
    inside = dict(_boxes(boxes.get(b"iprp", b"")))
    listed = list(_boxes(inside.get(b"ipco", b"")))
    try:
        numbers = _associations(inside.get(b"ipma", b""), _primary(boxes.get(b"pitm", b"")))
    except (struct.error, IndexError):
        numbers = []
    return [listed[number - 1] for number in numbers if 0 < number <= len(listed)] or listed


def _primary(pitm: bytes) -> int:
    number: int = struct.unpack_from(">I" if pitm[0] else ">H", pitm, _FULL_BOX_BYTES)[0]
    return number


def _associations(ipma: bytes, wanted: int) -> list[int]:
    """Numbers of the properties of an item, counted from 1."""
    is_long_item, is_long_index = ipma[0] > 0, ipma[3] & 1
    (count,), place = struct.unpack_from(">I", ipma, 4), 8
    for _ in range(min(count, _MAX_BOXES)):
        item = struct.unpack_from(">I" if is_long_item else ">H", ipma, place)[0]
        place += 4 if is_long_item else 2
        size, mask = (2, 0x7FFF) if is_long_index else (1, 0x7F)
        indices = [
            int.from_bytes(ipma[at : at + size]) & mask
            for at in range(place + 1, place + 1 + size * ipma[place], size)
        ]  # fmt: skip
        if item == wanted:
            return indices
        place += 1 + size * ipma[place]
    return []


def _content(data: bytes, kind: bytes) -> bytes:
    return next((box.data for box in _boxes(data) if box.kind == kind), b"")


def _boxes(data: bytes) -> Iterator[_Box]:
    place = 0
    for _ in range(_MAX_BOXES):
        if place + 8 > len(data):
            return
        (size,), kind, start = struct.unpack_from(">I", data, place), data[place + 4 : place + 8], place + 8
        if size == 1 and place + 16 <= len(data):
            (size,), start = struct.unpack_from(">Q", data, place + 8), place + 16
        end = len(data) if size == 0 else place + size
        if end < start:
            return
        yield _Box(kind, data[start:end])
        place = end


# --- formats that Pillow reads with a package of their own ------------------------------------------------------------

_START_BYTES = 32


class _Reader(NamedTuple):
    """The reader of a format: its package, and a function that registers it with Pillow or raises ImportError."""

    format: str
    package: str
    register: Callable[[], None]


def _register_heic() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


def _register_jxl() -> None:
    import pillow_jxl  # noqa: F401  it registers itself


def _register_avif() -> None:
    import pillow_avif  # noqa: F401  likewise, for a Pillow that was built without


_HEIC = _Reader("HEIC", "pillow-heif", _register_heic)
_JXL = _Reader("JPEG XL", "pillow-jxl-plugin", _register_jxl)
_AVIF = _Reader("AVIF", "pillow-avif-plugin", _register_avif)
_BRANDS = dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), _HEIC) | {
    b"avif": _AVIF, b"avis": _AVIF
}  # fmt: skip
_SUFFIXES = {".heic": _HEIC, ".heif": _HEIC, ".hif": _HEIC, ".jxl": _JXL}
_JXL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")


def open_with_package(file: str | os.PathLike[str] | BinaryIO) -> Image.Image | None:
    """Opens a picture that Pillow cannot read by itself; None if no package for it is known.

    Args:
        file: a path, or a seekable file.

    Raises:
        VaecImageError: (PACKAGE) the package that reads it is not installed.
        OSError: the file is damaged.
    """
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as opened:
            head = opened.read(_START_BYTES)
    else:
        file.seek(0)  # as Pillow does
        head = file.read(_START_BYTES)
        file.seek(0)
    reader = _reader_of(head)
    if reader is None:
        return None
    if not _register(reader):
        message = f"the picture is {reader.format}, which needs the package {reader.package}"
        raise VaecImageError(f"{message}: pip install {reader.package}", code="PACKAGE")
    return Image.open(file)


def register_for(name: str) -> None:
    """Registers with Pillow the package that writes files of this name, if it needs one and it is installed."""
    reader = _SUFFIXES.get(os.path.splitext(name)[1].lower())
    if reader:
        _register(reader)


def _reader_of(head: bytes) -> _Reader | None:
    if head.startswith(_JXL_STARTS):
        return _JXL
    if head[4:8] != b"ftyp":
        return None
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, len(head), 4))]
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)


def _register(reader: _Reader) -> bool:
    try:
        reader.register()
    except ImportError:
        return False
    return True
