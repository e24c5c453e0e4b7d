"""Pictures that need not fit into memory: from file to file by rows of tiles, and windows of them."""

import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from vaecodec import bitstream, files, pixels, sources, targets, thumbnails, tiles
from vaecodec.bitstream import DEFAULT_MAX_PIXELS, Header, Info, PixelFormat, TileMode
from vaecodec.errors import VaecImageError
from vaecodec.memory import Result, clear_errors
from vaecodec.metadata import merge_metadata
from vaecodec.payloads import SpooledTiles, StoredTiles
from vaecodec.rasters import readers, writers
from vaecodec.rows import ArrayRows, Rows
from vaecodec.tiles import Window

if TYPE_CHECKING:
    from vaecodec.model.network import Network

DEFAULT_QUALITY = 75

Output = Literal["pil", "numpy", "torch"]
Target = str | os.PathLike[str] | BinaryIO


class StreamingCodec(ABC):
    """What `Codec` does by rows of tiles; memory is needed for two such rows, that is 2048 rows of the picture."""

    @property
    @abstractmethod
    def network(self) -> "Network":
        """The loaded weights."""

    @abstractmethod
    def _network_for(self, header: Header, *, has_learned: bool) -> "Network | None": ...

    @abstractmethod
    def _on_device(self, network: "Network", work: "Callable[[Network], Result]") -> Result: ...

    @abstractmethod
    def _present(self, samples: Any, metadata: dict[str, bytes], output: Output) -> Any: ...

    def encode_file(
        self,
        source: readers.Source,
        target: Target,
        quality: int | None = None,
        *,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        target_psnr: float | None = None,
        thumbnail: bool = False,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        overwrite: bool = True,
        **metadata: Any,
    ) -> Info:
        """Encode a picture of any size into a file: the same bytes as `encode` returns, from less memory.

        Args:
            source: as for `encode`; or anything like `rows.Rows`, which is closed afterwards. Arrays (memory-mapped
                ones, and those of zarr and h5py, too), PGM and PPM files are read by rows; PNG, JPEG and TIFF files of
                more than 16 megapixels as well, where pyvips is installed (extra [big]); other files are decoded by
                Pillow as a whole, which takes up to 4 bytes a pixel.
            target: path of the .vaec file, which is written whole or not at all; or an open binary file.
            quality: as for `encode`, as are target_bytes, target_bpp, target_psnr (each attempt of their search reads
                the picture again), max_pixels and **metadata.
            thumbnail: as for `encode`; the picture is read once more for it.
            overwrite: whether a file of that name may be replaced.

        Returns:
            What `vaecodec.info` tells of the file.

        Raises:
            VaecError: as `encode`.
            OSError: a file cannot be read or written; FileExistsError if it may not be replaced.
        """
        wanted = targets.choose(quality, DEFAULT_QUALITY, bytes=target_bytes, bpp=target_bpp, psnr_db=target_psnr)
        with clear_errors(), ExitStack() as opened:
            rows = readers.open_rows(source, max_pixels=max_pixels)
            opened.callback(rows.close)
            extra = merge_metadata(rows.metadata, **metadata)
            small = ArrayRows(thumbnails.samples_of(rows)) if thumbnail else None

            def code(part: Rows, quality: int, extra: dict[str, bytes]) -> targets.Attempt[bitstream.Assembled]:
                coded = SpooledTiles(target if isinstance(target, str | os.PathLike) else None)
                opened.callback(coded.close)
                return self._encode_rows(part, quality, extra, coded)

            def attempt(quality: int) -> targets.Attempt[bitstream.Assembled]:
                more = {thumbnails.KEY: b"".join(code(small, quality, {}).data)} if small else {}
                return code(rows, quality, extra | more)

            assembled = wanted.search(attempt)
            with _writable(target, overwrite) as file:
                file.writelines(assembled)
            return assembled.info

    def decode_file(
        self,
        source: sources.Source,
        target: Target,
        *,
        format: str | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        overwrite: bool = True,
        **metadata: Any,
    ) -> Info:
        """Decode a .vaec file of any size into a picture file.

        Args:
            source: the .vaec file, as for `decode`; of one that is seekable only what is needed is read.
            target: path of the picture file, which is written whole or not at all; or an open binary file.
            format: Pillow's name of the format, such as "PNG"; None takes it from the suffix of the target. TIFF,
                and from 16 megapixels on PNG, PGM and PPM, are written by rows; otherwise Pillow collects the picture
                in memory, 4 bytes a pixel, and writes it, without loss where the format can.
            max_pixels: as for `decode`.
            overwrite: whether a file of that name may be replaced.
            **metadata: exif, icc_profile, xmp: bytes replace what the .vaec file carries, None drops it.

        Returns:
            What `vaecodec.info` tells of the source.

        Raises:
            VaecImageError: (SUFFIX, FORMAT) there is no such format, (SAVE) it cannot hold the picture.
            VaecError: as `decode`.
            OSError: a file cannot be read or written; FileExistsError if it may not be replaced.
        """
        chosen = writers.format_of(target) if format is None else writers.check_format(format)
        with clear_errors(), sources.open_binary(source) as file:
            stored = StoredTiles(file, max_pixels=max_pixels)
            header = stored.info.header
            shape = header.height, header.width, header.pixel_format.channels
            kept = merge_metadata(stored.info.metadata, **metadata)
            with _writable(target, overwrite) as output:
                start = output.tell() if output.seekable() else 0

                def write(network: "Network | None") -> None:
                    if output.seekable():  # where memory did not suffice on another device, all begins anew
                        output.seek(start)
                        output.truncate()
                    with closing(writers.open_sink(output, chosen, shape, kept)) as sink:
                        for band in tiles.decode_rows(stored, header, network):
                            sink.write(band)
                        sink.finish()

                self._with_network(stored, write)
            return stored.info

    def decode_region(
        self,
        source: sources.Source,
        box: tuple[int, int, int, int],
        *,
        output: Output = "pil",
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
    ) -> Any:
        """Decode a rectangle of a picture from the tiles that it touches: equal to the crop of the whole picture.

        Args:
            source: as for `decode_file`.
            box: (left, top, right, bottom) in pixels, within the picture, as Pillow's `Image.crop` takes it.
            output: as for `decode`.
            max_pixels: as for `decode`; it limits the whole picture.

        Raises:
            VaecImageError: (BOX) the box is empty or reaches beyond the picture.
            VaecError: as `decode`, of the tiles that are needed.
            OSError: the file cannot be read.
        """
        check_output(output)
        with clear_errors(), sources.open_binary(source) as file:
            stored = StoredTiles(file, max_pixels=max_pixels)
            window = _window(box, stored.info.header)

            def decode(network: "Network | None") -> pixels.Samples:
                return np.concatenate([*tiles.decode_rows(stored, stored.info.header, network, window=window)])

            return self._present(self._with_network(stored, decode), stored.info.metadata, output)

    def _encode_rows(
        self, rows: Rows, quality: int, metadata: dict[str, bytes], coded: SpooledTiles
    ) -> targets.Attempt[bitstream.Assembled]:
        height, width, channels = rows.shape
        network = self.network
        pixel_format = PixelFormat.from_mode(pixels.MODES[channels - 1])
        wanted = Header(pixel_format, width, height, network.model_id, quality, bitstream.tile_log2_for(width))
        coded.begin(wanted.tile_count)
        header, squared_error = self._on_device(network, lambda where: tiles.encode_rows(rows, wanted, where, coded))
        colour = channels - header.pixel_format.has_alpha
        return targets.Attempt(
            data=bitstream.assemble(header, coded, metadata),
            psnr_db=lambda: pixels.decibels(squared_error, width * height * colour),
            pixels=width * height,
        )

    def _with_network(self, stored: StoredTiles, work: "Callable[[Network | None], Result]") -> Result:
        """The work done with the network that the file names, or without one if no tile is learned."""
        has_learned = any(entry.mode == TileMode.LEARNED for entry in stored.info.index)
        network = self._network_for(stored.info.header, has_learned=has_learned)
        return work(None) if network is None else self._on_device(network, work)


def check_output(output: str) -> None:
    """Refuses another kind of output than those of `Output`: raises VaecImageError (ARGUMENT)."""
    if output not in ("pil", "numpy", "torch"):
        raise VaecImageError(f"output is {output!r}, must be 'pil', 'numpy' or 'torch'", code="ARGUMENT")


def _window(box: tuple[int, int, int, int], header: Header) -> Window:
    try:
        left, top, right, bottom = map(operator.index, box)
    except (TypeError, ValueError):
        left = top = right = bottom = -1
    if not (0 <= left < right <= header.width and 0 <= top < bottom <= header.height):
        message = f"box is {box}, must be whole numbers (left, top, right, bottom), not empty, within"
        raise VaecImageError(f"{message} {header.width} x {header.height} pixels", code="BOX")
    return Window(top, bottom, left, right)


@contextmanager
def _writable(target: Target, overwrite: bool) -> Iterator[BinaryIO]:
    if isinstance(target, str | os.PathLike):
        with files.writing(target, overwrite=overwrite) as file:
            yield file
    else:
        yield target
