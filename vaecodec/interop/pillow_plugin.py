"""The Pillow plugin: `Image.open` and `Image.save` for .vaec files, registered when this module is imported.

Opening reads header, tile index and metadata and allocates no pixels. Loading and saving import `vaecodec.codec` and go
through it. All faults of files and images are raised as OSError, mostly as VaecError, because that is what users of
Pillow catch. Pixels are shown as stored: EXIF orientation is left to `ImageOps.exif_transpose`.

`Image.save` empties an existing file before it calls a plugin. So that a failed save keeps the old file, registering
wraps `Image.save`: for paths of .vaec files it encodes into memory first and then writes the file atomically. All other
saves are passed on unchanged.
"""

import functools
import io
import mimetypes
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, BinaryIO, Literal, cast

from PIL import Image, ImageFile

from vaecodec.errors import VaecError, VaecFormatError, VaecImageError, VaecModelError, VaecResourceError
from vaecodec.format import container, records
from vaecodec.pictures import exif
from vaecodec.runtime import files

FORMAT = "VAEC"
EXTENSION = ".vaec"
MIME_TYPE = "image/x-vaec"
SAVE_OPTIONS = (
    "quality", "target_bytes", "target_bpp", "target_psnr", "target_ssimulacra2", "exif", "icc_profile", "xmp", "model",
    "lossless", "effort", "quality_map", "device", "tune",
)  # fmt: skip
"""Keywords of `Image.save` that are passed to `vaecodec.encode`, which documents them."""

# People pass these whatever the format, so a warning would only be noise.
_SILENT_OPTIONS = ("optimize", "progressive", "dpi", "comment", "subsampling", "method")
_FRAME_OPTIONS = ("save_all", "append_images", "append")
_MARK = "_vaecodec_writes_whole"
_DRAFT_SCALES = (8, 4, 2)


class VaecImageFile(ImageFile.ImageFile):
    """A .vaec file that Pillow has opened.

    `info` holds "icc_profile", "exif" and "xmp" (bytes) if the file has them, and "vaec": a dict with "quality"
    (1..100), "bpp" (bits of the whole file per pixel), "model_id" (8 hexadecimal digits) and "version" (of the format).

    With `ImageFile.LOAD_TRUNCATED_IMAGES` set, a file whose header and tile index are intact opens and loads: damaged
    tiles are grey, a UserWarning names them, and damaged metadata is missing.

    Example:
        >>> Image.open("photo.vaec").info["vaec"]["quality"]
        60
    """

    format = FORMAT
    format_description = "vaecodec learned image"
    n_frames = 1
    is_animated = False

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Selects a preview of 1/2, 1/4 or 1/8 instead of the whole picture: see `scale` of `Codec.decode`.

        `Image.thumbnail` calls this, so thumbnails take about a third of the time.

        Args:
            mode: part of Pillow's interface; has no effect.
            size: (width, height) in pixels; the preview has the smallest size that is not below it.

        Returns:
            The mode, and the box (left, top, right, bottom) that the picture fills in the preview, whose sides are
            rounded up. None if nothing changes, as after an earlier draft or `load`.
        """
        if not size or not self.tile or self.tile[0].args != (1, *self.size):
            return None
        width, height = self.size
        fits = min(width // max(1, size[0]), height // max(1, size[1]))
        scale = next((scale for scale in _DRAFT_SCALES if scale <= fits), 1)
        if scale == 1:
            return None
        self._size = (-(-width // scale), -(-height // scale))
        self.tile = [self.tile[0]._replace(extents=(0, 0, *self._size), args=(scale, width, height))]
        return self.mode, (0, 0, width / scale, height / scale)

    def load(self) -> Any:
        """Decodes the pixels on the first call, and returns Pillow's pixel access object.

        Raises:
            VaecError: the file is damaged, needs other weights, or is closed (CLOSED).
            OSError: the file cannot be read.
        """
        if self.tile:
            self._opened_file()
        with _others_as_vaec_errors():
            return super().load()

    def load_seek(self, pos: int) -> None:
        """Seeks in the file. The presence of this method makes `ImageFile.Parser` wait for the whole file."""
        self._opened_file().seek(pos)

    def verify(self) -> None:
        """Checks every CRC of the file without decoding it, then closes it.

        Raises:
            VaecError: the file is damaged, or has been loaded or closed already (CLOSED).
            OSError: the file cannot be read.
        """
        file = self._opened_file()
        try:
            with _others_as_vaec_errors():
                file.seek(self.tile[0].offset)
                container.read(file.read(), max_pixels=None)
        finally:
            super().verify()

    def _open(self) -> None:
        file = self._opened_file()
        start = file.tell()
        is_vaec = container.is_vaec(file.read(len(records.MAGIC)))
        file.seek(start)
        if not is_vaec:
            raise SyntaxError("not a .vaec file")  # Pillow's word for "try the next format"
        with _others_as_vaec_errors():
            header, metadata, file_bytes = _read_front(file, start)
        self._size = (header.width, header.height)
        self._mode = header.pixel_format.mode
        self.tile = [ImageFile._Tile("vaec", (0, 0, *self._size), start, (1, *self._size))]
        self.info.update({key: value for key, value in metadata.items() if value})
        if "exif" in self.info:
            dpi = exif.resolution_dpi(self.info["exif"])
            # Savers of other formats expect the prefix that Pillow's JPEG reader leaves in place.
            self.info["exif"] = exif.PREFIX + self.info["exif"]
            if dpi:
                self.info["dpi"] = dpi
        self.info["vaec"] = {
            "quality": header.quality,
            "bpp": 8 * file_bytes / (header.width * header.height),
            "model_id": header.model_id.hex(),
            "version": records.VERSION,
        }

    def _opened_file(self) -> BinaryIO:
        file: BinaryIO | None = getattr(self, "fp", None)  # unpickled images have none
        if file is None or getattr(file, "closed", False):
            raise VaecError("image file is closed, must be open: call Image.open again", code="CLOSED")
        return file


class VaecDecoder(ImageFile.PyDecoder):
    """Fills Pillow's buffer with the pixels of all tiles in one call, so that tiles can be decoded in batches."""

    _pulls_fd = True

    def decode(self, buffer: object) -> tuple[int, int]:
        """Decodes the file that Pillow has set; the return value tells Pillow that it is done.

        Raises:
            VaecError: as `vaecodec.decode`; also (CHANGED) if the file has changed since it was opened.
        """
        from vaecodec import codec  # numpy, and torch where a tile is learned, load with the first picture

        on_error: Literal["raise", "partial"] = "partial" if ImageFile.LOAD_TRUNCATED_IMAGES else "raise"
        data = cast(IO[bytes], self.fd).read()
        scale, width, height = self.args
        # Pillow checked its own limit when the file was opened; a different size now means a different file.
        samples = codec.decode(data, output="numpy", scale=1 / scale, max_pixels=width * height, on_error=on_error)
        channels = Image.getmodebands(self.mode)
        expected = (self.state.ysize, self.state.xsize) + ((channels,) if channels > 1 else ())
        if samples.shape != expected:
            message = f"picture is {samples.shape}, must be {expected} as when it was opened: the file has changed"
            raise VaecFormatError(message, code="CHANGED")
        self.set_as_raw(cast(bytes, samples.data))
        return -1, 0


def register() -> None:
    """Registers .vaec with Pillow and `mimetypes`. Importing vaecodec does this; calling it again changes nothing.

    Example:
        >>> vaecodec.register()
        >>> Image.open("photo.vaec").format
        'VAEC'
    """
    Image.register_open(FORMAT, VaecImageFile, container.is_vaec)
    Image.register_decoder("vaec", VaecDecoder)
    Image.register_save(FORMAT, _save)
    Image.register_save_all(FORMAT, _save_all)
    Image.register_extension(FORMAT, EXTENSION)
    Image.register_mime(FORMAT, MIME_TYPE)
    if not hasattr(Image.Image.save, _MARK):
        Image.Image.save = _saving_whole(Image.Image.save)  # type: ignore[method-assign]
    mimetypes.add_type(MIME_TYPE, EXTENSION)


def _saving_whole(save: Callable[..., None]) -> Callable[..., None]:
    """`Image.save`, except that .vaec files given by path are written atomically."""

    @functools.wraps(save)
    def saving(image: Image.Image, fp: Any, format: str | None = None, **params: Any) -> None:
        if not _is_ours(fp, format):
            save(image, fp, format, **params)
            return
        content = io.BytesIO()
        save(image, content, FORMAT, **params)
        path = os.fspath(fp)
        if os.path.exists(path) and not os.path.isfile(path):  # a device or a pipe: there is nothing to replace
            with open(path, "wb") as file:
                file.write(content.getbuffer())
        else:
            files.write_whole(os.fsdecode(path), content.getvalue(), mode=files.mode_of(image))

    setattr(saving, _MARK, True)
    return saving


def _is_ours(fp: Any, format: str | None) -> bool:
    """Whether `Image.save` would write a .vaec file to a path."""
    if not isinstance(fp, str | bytes | os.PathLike):
        return False
    if format is not None:
        return isinstance(format, str) and format.upper() == FORMAT
    return os.path.splitext(os.fsdecode(fp))[1].lower() == EXTENSION


def _read_front(file: BinaryIO, start: int) -> tuple[records.Header, dict[str, bytes], int]:
    """Header, metadata and length in bytes of a file; reads damaged files only with LOAD_TRUNCATED_IMAGES."""
    try:
        info = container.read_info(file, max_pixels=None)
    except VaecError:
        if not ImageFile.LOAD_TRUNCATED_IMAGES:
            raise
    else:
        return info.header, info.metadata, info.file_bytes
    file.seek(start)
    data = file.read()
    stream = container.read(data, max_pixels=None, partial=True)
    return stream.header, stream.metadata, len(data)


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """Saves an image. Pillow has already emptied the target, so everything is encoded before anything is written."""
    options = image.encoderinfo
    unknown = sorted(options.keys() - {*SAVE_OPTIONS, *_SILENT_OPTIONS, *_FRAME_OPTIONS})
    if unknown:
        known = ", ".join(SAVE_OPTIONS)
        warnings.warn(f"save options ignored: {', '.join(unknown)}; {FORMAT} has {known}", UserWarning, stacklevel=4)
    if options.get("append"):
        raise _only_one_frame("append is set")
    with _others_as_vaec_errors():
        from vaecodec import codec

        # The pixels are in memory already, so a limit on them would protect nobody.
        chosen = {name: options[name] for name in SAVE_OPTIONS if name in options}
        if chosen.get("lossless"):
            chosen.pop("quality", None)  # people pass on WebP's options, where it then means the effort
        data = codec.encode(image, max_pixels=None, **chosen)
    _write(file, data)


def _write(file: IO[bytes], data: bytes) -> None:
    """Writes and flushes: an error when Pillow closes the file would be too late for Pillow to remove it."""
    try:
        file.write(data)
        if hasattr(file, "flush"):
            file.flush()
    except OSError:
        if isinstance(file, io.BufferedRandom):  # opened by Pillow; closing it a second time is harmless
            with suppress(OSError):
                file.close()
        raise


def _save_all(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    frames = getattr(image, "n_frames", 1) + len(list(image.encoderinfo.get("append_images") or ()))
    if frames > 1:
        raise _only_one_frame(f"images to save are {frames}")
    _save(image, file, filename)


def _only_one_frame(found: str) -> VaecImageError:
    return VaecImageError(f"{found}, a {EXTENSION} file must have exactly 1: save each to its own", code="FRAMES")


@contextmanager
def _others_as_vaec_errors() -> Iterator[None]:
    """Turns errors that are not the caller's mistake into classes that `except OSError` catches."""
    try:
        yield
    except MemoryError as error:
        raise VaecResourceError("not enough memory for this picture") from error
    except ImportError as error:
        raise VaecModelError(f"the codec cannot be loaded: {error}", code="IMPORT") from error


register()
