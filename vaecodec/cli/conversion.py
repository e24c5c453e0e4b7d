"""Encodes and decodes one picture for the command line, from a file or stdin to an output that is not yet written."""

import io
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import numpy as np
from PIL import ImageOps

from vaecodec.cli.batch import OutputError, finding_damage, printable, reading
from vaecodec.cli.comparison import finite
from vaecodec.cli.outputs import STDIO
from vaecodec.cli.pictures import Picture, open_picture, output_errors, read_file, save_picture
from vaecodec.cli.streams import stdin
from vaecodec.codec import Codec
from vaecodec.errors import VaecError, VaecLimitError
from vaecodec.format import container, records, sources
from vaecodec.pictures import fidelity, originals, pillow, pixels, row_files, writers
from vaecodec.pictures.metadata import METADATA_KEYS
from vaecodec.runtime import files


@dataclass(frozen=True)
class Product:
    """An output before it is written: a file to read from its beginning. `damage` is what is missing in it.

    `is_left_out` means that it is not worth writing.
    """

    content: BinaryIO
    facts: dict[str, Any]
    damage: VaecError | None = None
    is_left_out: bool = False


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode. `rate` holds at most one of quality and the targets of `Codec.encode`; none means quality "auto".

    `is_saving` skips lossy pictures that would grow; `effort` and `quality_map` as in `Codec.encode`.
    """

    rate: Mapping[str, Any] = field(default_factory=dict)
    kept: frozenset[str] = frozenset(METADATA_KEYS)
    max_pixels: int = records.DEFAULT_MAX_PIXELS
    is_upright: bool = False
    background: str | None = None
    is_verified: bool = False
    is_saving: bool = False
    effort: int | None = None
    quality_map: pixels.Samples | None = None

    @property
    def needs_whole_picture(self) -> bool:
        """Whether the whole picture must be in memory."""
        return self.is_upright or self.background is not None or self.is_verified


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode, and into which Pillow format. `box` or `scale` select less than the whole picture.

    `background` replaces transparency; `quality` and `subsampling` are options of the format; `fit_px` is the longest
    side that the output may have; `is_thumbnail` allows a quarter less where that is faster.
    """

    format: str = "PNG"
    box: tuple[int, int, int, int] | None = None
    scale: float = 1
    kept: frozenset[str] = frozenset(METADATA_KEYS)
    max_pixels: int = records.DEFAULT_MAX_PIXELS
    is_upright: bool = False
    keeps_going: bool = False
    background: str | None = None
    quality: int | None = None
    subsampling: str | None = None
    fit_px: int | None = None
    is_thumbnail: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the output is the stored picture, unchanged."""
        is_whole = self.box is None and self.scale == 1 and self.fit_px is None
        return is_whole and not self.is_upright and self.background is None


def encode(codec: Codec, options: EncodeOptions, source: str, target: str) -> Product:
    """Encodes a picture file, or stdin; a large file by rows, if its format and the options allow it.

    Args:
        codec: the codec.
        options: how to encode.
        source: path, or "-".
        target: where the output will go, path or "-".

    Raises:
        InputError: the source cannot be read.
        OutputError: (VERIFY) the result does not decode to a picture of the same size and mode.
        VaecError: as `Codec.encode`.
    """
    start_s = time.perf_counter()
    opened = source if _is_regular(source) else read_file(source)
    worth = None if options.rate else _estimate(opened)
    if worth:
        options = replace(options, rate={"quality": worth.vaec_quality})
    with ExitStack() as on_error:
        content = on_error.enter_context(_spool(target))
        if isinstance(opened, str) and not options.needs_whole_picture and _is_big_picture(opened):
            psnr = _encode_rows(codec, options, opened, content)
        else:
            psnr = _encode_whole(codec, options, opened, content)
        on_error.pop_all()
    content.seek(0)
    info = container.read_info(content, max_pixels=None)
    header = info.header
    facts: dict[str, Any] = {
        "width": header.width,
        "height": header.height,
        "mode": header.pixel_format.mode,
        "quality": header.quality,
        **_size_of(opened),
        "output_bytes": info.file_bytes,
        "bpp": round(8 * info.file_bytes / (header.width * header.height), 4),
    }
    facts |= _facts_of(worth) | psnr | {"seconds": round(time.perf_counter() - start_s, 3)}
    content.seek(0)
    is_larger = worth is not None and info.file_bytes >= facts.get("input_bytes", math.inf)
    return Product(content, facts, is_left_out=is_larger and options.is_saving)


def delete_original(codec: Codec, source: str, target: str) -> None:
    """Deletes a picture file after its output has been read back from the target and decoded.

    Raises:
        OutputError: the original is kept: (VERIFY) the output does not decode to a picture of its size, (LOSES) the
            original holds more than a .vaec file can, such as further frames, or (DELETE) it cannot be deleted.
    """
    try:
        made = codec.decode(target, output="numpy", max_pixels=None).shape[:2]
        with pixels.open_image(source) as image:
            wanted, lost = (image.height, image.width), originals.inspect(image, is_file=True)
    except (VaecError, OSError) as error:
        raise OutputError(f"the original is kept: the output cannot be read back ({error})", code="VERIFY") from error
    if made not in (wanted, wanted[::-1]):  # --auto-orient may swap the sides
        raise OutputError(f"the original is kept: {wanted} pixels became {made}", code="VERIFY")
    if missing := (*lost.lost, *lost.lost_metadata):
        message = f"the original is kept: a .vaec file cannot hold its {', '.join(missing)}"
        raise OutputError(message, code="LOSES")
    try:
        os.remove(source)
    except OSError as error:
        raise OutputError(f"cannot delete {printable(source)}: {error.strerror}", code="DELETE") from error


def decode(codec: Codec, options: DecodeOptions, source: str, target: str) -> Product:
    """Decodes a .vaec file, or stdin, to a picture file.

    Args:
        codec: the codec.
        options: how to decode.
        source: path, or "-".
        target: where the output will go, path or "-".

    Raises:
        InputError: the source cannot be read.
        OutputError: (SAVE) the format cannot hold the picture, or (BOX) the box is not within the picture.
        VaecError: as `Codec.decode`.
    """
    start_s, damage = time.perf_counter(), None
    with ExitStack() as on_error, _open_vaec(source) as file:
        content = on_error.enter_context(_spool(target))
        try:
            facts = _decode_into(codec, options, file, content)
        except VaecError as error:
            if not options.keeps_going or isinstance(error, OutputError):
                raise
            damage = error
            for each in (file, content):
                each.seek(0)
            content.truncate()
            image = codec.decode(file, scale=options.scale, max_pixels=options.max_pixels, on_error="partial")
            facts = _save(image, options, content)
        on_error.pop_all()
    facts |= {"format": options.format, **_size_of(source), "output_bytes": content.seek(0, io.SEEK_END)}
    content.seek(0)
    return Product(content, facts | {"seconds": round(time.perf_counter() - start_s, 3)}, damage)


def _spool(target: str) -> BinaryIO:
    return files.spool(None if target == STDIO else target)


def _is_regular(source: str) -> bool:
    """Whether this file can be read more than once; a missing file is reported when it is opened."""
    return source != STDIO and (os.path.isfile(source) or not os.path.exists(source))


def _size_of(source: str | bytes) -> dict[str, int]:
    """The size of the input in bytes, for reports; unknown for pipes and stdin, unless their contents are given."""
    if isinstance(source, bytes):
        return {"input_bytes": len(source)}
    return {"input_bytes": os.path.getsize(source)} if source != STDIO and os.path.isfile(source) else {}


def _estimate(source: str | bytes) -> fidelity.Estimate | None:
    """The estimated fidelity of a lossy picture, a path or the bytes of a file; None for others."""
    try:
        with pixels.open_image(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return fidelity.estimate(image, source)
    except Exception:  # reported when it is opened for encoding
        return None


def _facts_of(worth: fidelity.Estimate | None) -> dict[str, Any]:
    return {} if worth is None else {"source_format": worth.format, "source_quality": worth.quality}


def _is_big_picture(source: str) -> bool:
    """Whether the picture is large enough to save memory, and is the only one in the file."""
    try:
        with reading(), pixels.open_image(source) as image:
            return image.width * image.height >= pillow.BIG_PX and not getattr(image, "is_animated", False)
    except VaecLimitError:  # Pillow's own limit, which does not apply to our row readers
        return True


def _encode_rows(codec: Codec, options: EncodeOptions, source: str, content: BinaryIO) -> dict[str, Any]:
    with finding_damage():
        with reading():
            rows = row_files.open_file(source, max_pixels=options.max_pixels, overrides=_dropped(options.kept))
        codec.encode_file(rows, content, **_arguments(options))
    return {}


def _encode_whole(codec: Codec, options: EncodeOptions, source: str | bytes, content: BinaryIO) -> dict[str, Any]:
    """Returns the result of --verify."""
    with open_picture(source, max_pixels=options.max_pixels, upright=options.is_upright) as picture:
        image = picture if options.background is None else pixels.flatten_alpha(picture, options.background)
        if image is not picture:
            pixels.warn_of_losses(picture, _dropped(options.kept))
        data = codec.encode(image, **_arguments(options))
        content.write(data)
        return {"psnr_db": _verified_psnr_db(codec, image, data)} if options.is_verified else {}


@contextmanager
def _open_vaec(source: str) -> Iterator[BinaryIO]:
    """A file, or the contents of stdin, opened so that it can be read more than once."""
    with ExitStack() as opened:
        with reading():
            file = stdin() if source == STDIO else opened.enter_context(open(source, "rb"))
            if source == STDIO or not file.seekable():
                file = io.BytesIO(sources.read_all(file))
        yield file


def _decode_into(codec: Codec, options: DecodeOptions, file: BinaryIO, content: BinaryIO) -> dict[str, Any]:
    """Decodes and saves what the options select; returns its width, height and mode."""
    limit, start = options.max_pixels, file.tell()
    if options.quality is None and not options.is_plain:
        options = replace(options, quality=_quality_after(options.format, sources.info(file, max_pixels=limit)))
        file.seek(start)
    with output_errors():
        if options.is_plain:
            dropped = _dropped(options.kept)
            header = codec.decode_file(
                file, content, format=options.format, quality=options.quality, subsampling=options.subsampling,
                max_pixels=limit, **dropped,
            ).header  # fmt: skip
            return {"width": header.width, "height": header.height, "mode": header.pixel_format.mode}
        if options.box:
            return _save(codec.decode_region(file, options.box, max_pixels=limit), options, content)
    if options.fit_px is None:
        return _save(codec.decode(file, scale=options.scale, max_pixels=limit), options, content)
    least_px = options.fit_px * 3 // 4 if options.is_thumbnail else options.fit_px
    image = codec.decode(file, scale=1 / _reduction(file, least_px), max_pixels=limit)
    kept = dict(image.info)
    image.thumbnail((options.fit_px, options.fit_px))
    image.info = kept
    return _save(image, options, content)


def _reduction(file: BinaryIO, side_px: int) -> int:
    """The largest preview reduction whose longer side still has at least `side_px` pixels."""
    start = file.tell()
    header = sources.info(file, max_pixels=None).header
    file.seek(start)
    return next((each for each in (8, 4, 2) if max(header.width, header.height) >= each * side_px), 1)


def _quality_after(format: str, info: records.Info) -> int | None:
    is_lossy = any(entry.mode is records.TileMode.LEARNED for entry in info.index)
    return writers.quality_after(format, info.header.quality) if is_lossy else None


def _save(image: Picture, options: DecodeOptions, content: BinaryIO) -> dict[str, Any]:
    if options.is_upright:
        image = _upright(image)
    if options.background is not None:
        image = pixels.flatten_alpha(image, options.background)
    content.write(save_picture(image, options.format, kept=options.kept, quality=options.quality,
                               subsampling=options.subsampling))  # fmt: skip
    return {"width": image.width, "height": image.height, "mode": image.mode}


def _arguments(options: EncodeOptions) -> dict[str, Any]:
    given = {"effort": options.effort, "quality_map": options.quality_map}
    given = {name: value for name, value in given.items() if value is not None}
    return {**options.rate, **given, "max_pixels": options.max_pixels, **_dropped(options.kept)}


def _dropped(kept: frozenset[str]) -> dict[str, Any]:
    """Arguments for the codec that drop the metadata that is not kept."""
    return dict.fromkeys(set(METADATA_KEYS) - kept)


def _upright(image: Picture) -> Picture:
    """The picture rotated as its EXIF says, without that tag; unchanged if Pillow cannot read its EXIF."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's reader and writer of EXIF fail in many ways
        warnings.warn(f"EXIF cannot be read ({error}): the picture is not rotated", UserWarning, stacklevel=2)
        return image


def _verified_psnr_db(codec: Codec, image: Picture, data: bytes) -> float | None:
    """PSNR in dB of the encoded picture over all samples; None if it is lossless."""
    expected, decoded = pixels.to_samples(image), np.atleast_3d(codec.decode(data, output="numpy", max_pixels=None))
    if decoded.shape != expected.shape:
        message = f"the encoded picture decodes to samples of shape {decoded.shape}, must be {expected.shape}"
        raise OutputError(message, code="VERIFY")
    return finite(pixels.psnr_db(expected, decoded))
