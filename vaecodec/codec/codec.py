"""Pictures to .vaec bytes and back: the pipeline of all of a picture, with the weights loaded once."""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Unpack, overload

from vaecodec.errors import Result, VaecError, VaecImageError, VaecModelError, first_that_fits, translated_errors
from vaecodec.format import container, sources
from vaecodec.format.container import Assembled
from vaecodec.format.records import (
    DEFAULT_MAX_PIXELS,
    NO_MODEL,
    Bitstream,
    Header,
    Info,
    Tile,
    TileMode,
    plain_tile_log2_for,
)
from vaecodec.format.stored_tiles import SpooledTiles, StoredTiles
from vaecodec.model import engines
from vaecodec.model.architecture import BUILT_IN, DEFAULT_TUNE, built_in_tune
from vaecodec.model.engine import Engine
from vaecodec.pictures import pixels, readers, ssimulacra2, writers
from vaecodec.pictures.metadata import KEEP, Exif, IccProfile, Xmp, merge_metadata, without_thumbnails
from vaecodec.pictures.pixels import Rows
from vaecodec.runtime import files, threads
from vaecodec.tiling import decode as decoding
from vaecodec.tiling.canvas import to_rgb
from vaecodec.tiling.decode import Decoder, NumpyArrays
from vaecodec.tiling.encode import Encoder, Refine, encode_plain
from vaecodec.tiling.options import (
    DEFAULT_EFFORT,
    QUALITY_MAX,
    Attempt,
    BatchOptions,
    DecodeOptions,
    EncodeOptions,
    OnError,
    Output,
    Presentation,
    RegionOptions,
    Target,
    overrides,
    rate_goal,
    refining_steps,
    window_of,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vaecodec.tiling.explore import Explorer

Model = str | Path | None
Box = tuple[int, int, int, int]


class Codec:
    """Encodes and decodes with one set of weights on one device. Stateless after construction; any thread may use it.

    Args:
        model: path of a weights file; None is the built-in ones.
        device: "auto" (CUDA if torch is loaded and has it, else CPU) or a torch device such as "cpu" or "cuda:1".
        tune: which of the built-in weights encode: "eye" looks best at equal bytes, "psnr" has the least squared error.
            Files name theirs, and decode with either.
        engine: what computes. "native" is a small library for CPUs, without torch; "torch" is for GPUs, too; "auto" is
            what the environment variable VAECODEC_ENGINE says, else the native one on CPUs if it is installed.

    Raises:
        VaecImageError: (ARGUMENT) there is no such tune or engine.

    The weights are loaded at the first picture that needs them. Torch's global settings stay as they are, with one
    exception: a process that was forked while torch was loaded gets one torch thread, as workers of torch's DataLoader
    do, because torch would wait for the parent's threads for ever.
    A picture for which the device's memory does not suffice is computed in parts, then on the CPU, with a warning.

    Example:
        >>> codec = vaecodec.Codec()
        >>> data = codec.encode("photo.png", quality=60)
        >>> codec.decode(data).size
        (768, 512)
    """

    def __init__(
        self, model: Model = None, device: str = "auto", tune: str = DEFAULT_TUNE, engine: str = "auto"
    ) -> None:
        if tune not in BUILT_IN:
            raise VaecImageError(f"tune is {tune!r}, must be one of {', '.join(BUILT_IN)}", code="ARGUMENT")
        self.model = None if model is None else str(model)
        self.device, self.tune, self.kind = device, tune, engines.check(engine)

    def __repr__(self) -> str:
        return f"Codec(model={self.model!r}, device={self.device!r}, tune={self.tune!r}, engine={self.kind!r})"

    @property
    def engine(self) -> Engine:
        """What encodes: the loaded weights.

        Raises:
            VaecModelError: they are missing, damaged, or for a device that is not there.
            VaecResourceError: neither the device nor the computer has memory for them.
        """
        return self._engine(self.tune)

    @property
    def explore(self) -> "Explorer":
        """What latents give besides pictures: features, bits by place, blends, draws from the prior."""
        from vaecodec.tiling.explore import Explorer  # deferred: coding pictures does not need it

        return Explorer(self)

    # --- encoding ---

    def encode(
        self,
        image: pixels.Source,
        quality: int | None = None,
        *,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        target_psnr: float | None = None,
        target_ssimulacra2: float | None = None,
        lossless: bool = False,
        effort: int = DEFAULT_EFFORT,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        exif: Exif = KEEP,
        icc_profile: IccProfile = KEEP,
        xmp: Xmp = KEEP,
    ) -> bytes:
        """Encode a picture.

        Args:
            image: Pillow image, path, bytes of a picture file, open binary file, uint8 array [H, W] or [H, W, C] (C: 1
                L, 2 LA, 3 RGB, 4 RGBA), or uint8 torch tensor [C, H, W]. Alpha is kept losslessly.
            quality: 1 (smallest) to 100 (about 43 dB on photographs); 75 if neither it nor a target is given.
            target_bytes: the largest quality whose file, metadata included, fits into this many bytes.
            target_bpp: the same in bits per pixel.
            target_psnr: the smallest quality whose picture has at least this PSNR in dB (alpha does not count).
            target_ssimulacra2: the smallest quality with at least this score: at 90 nobody sees a
                difference in place, at 80 side by side; 70 is high quality, 50 medium. Alpha does not count. The
                picture is held in memory, some 200 bytes a pixel, and must have 8 pixels a side.
            lossless: keep every sample; needs no weights.
            effort: 1 to 9. From 7 on, symbols are refined against the decoder in 100, 300 and 1000 steps, each of which
                takes two to five times as long as a usual encoding, and which need torch. Weights for the eye then
                spend 2 % fewer bits at 7 and 4 % at 8 for what is seen, weights for PSNR 1 %. All below encode alike.
            max_pixels: refuse larger pictures before their pixels are read; None only leaves the format's limit, 2^28.
            exif: bytes, or a `PIL.Image.Exif`, in the place of what the image carries; None drops it.
            icc_profile: the same, bytes.
            xmp: the same, bytes or a str.

        Returns:
            The .vaec file.

        Raises:
            VaecImageError: the picture's mode, size or type cannot be encoded, or an argument is out of range.
            VaecLimitError: it has more pixels than allowed.
            VaecTargetError: no quality from 1 to 100 meets the target.
            VaecModelError: the weights cannot be loaded.
            VaecResourceError: memory ran out.
            VaecUnsupportedError: (WEBP_MISSING) Pillow was built without WebP, which samples without loss need.

        Example:
            >>> data = Codec().encode("photo.png", target_bpp=0.5, exif=None)
        """
        goal = rate_goal(
            quality, bytes=target_bytes, bpp=target_bpp, psnr=target_psnr, ssimulacra2=target_ssimulacra2,
            lossless=lossless,
        )  # fmt: skip
        metadata, steps = overrides(exif=exif, icc_profile=icc_profile, xmp=xmp), refining_steps(effort)
        with (
            translated_errors(),
            closing(readers.open_rows(image, max_pixels=max_pixels, overrides=metadata)) as rows,
        ):
            extra = merge_metadata(rows.metadata, **metadata) if metadata else rows.metadata
            return b"".join(goal.search(lambda quality: self._attempt(rows, quality, extra, _empty_tiles, steps)))

    def encode_file(
        self,
        source: readers.Source,
        target: Target,
        quality: int | None = None,
        *,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        target_psnr: float | None = None,
        target_ssimulacra2: float | None = None,
        lossless: bool = False,
        effort: int = DEFAULT_EFFORT,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        overwrite: bool = True,
        exif: Exif = KEEP,
        icc_profile: IccProfile = KEEP,
        xmp: Xmp = KEEP,
    ) -> Info:
        """Encode a picture of any size into a file: the same bytes as `encode` returns, from less memory.

        Memory is needed for two rows of tiles, that is 2048 rows of the picture.

        Args:
            source: as for `encode`; or anything like `pixels.Rows`, which is closed afterwards. Arrays (memory-mapped
                ones, and those of zarr and h5py, too), PGM and PPM files are read by rows; PNG, JPEG and TIFF files of
                more than 16 megapixels as well, where pyvips is installed (extra [big]); other files are decoded by
                Pillow as a whole, which takes up to 4 bytes a pixel.
            target: path of the .vaec file, which is written whole or not at all; or an open binary file.
            quality: as for `encode`; so are the keywords that have the same names. Each attempt of the search for a
                target reads the picture again.
            overwrite: whether a file of that name may be replaced. A new one has the source's permissions.

        Returns:
            What `vaecodec.info` tells of the file.

        Raises:
            VaecImageError: (SAME_FILE) the target is the source.
            VaecError: as `encode`.
            OSError: a file cannot be read or written; FileExistsError if it may not be replaced.

        Example:
            >>> Codec().encode_file("map.tif", "map.vaec", 60).file_bytes
            48213377
        """
        goal = rate_goal(
            quality,
            bytes=target_bytes,
            bpp=target_bpp,
            psnr=target_psnr,
            ssimulacra2=target_ssimulacra2,
            lossless=lossless,
        )
        _check_distinct(source, target)
        metadata, steps = overrides(exif=exif, icc_profile=icc_profile, xmp=xmp), refining_steps(effort)
        mode = files.mode_of(source)  # before it is read: a pipe or an image may be closed then
        with translated_errors(), ExitStack() as opened:
            rows = opened.enter_context(closing(readers.open_rows(source, max_pixels=max_pixels, overrides=metadata)))
            extra = merge_metadata(rows.metadata, **metadata) if metadata else rows.metadata

            def spooled(count: int) -> SpooledTiles:
                beside = target if isinstance(target, str | os.PathLike) else None
                return opened.enter_context(closing(SpooledTiles(count, beside)))

            assembled = goal.search(lambda quality: self._attempt(rows, quality, extra, spooled, steps))
            with _writable(target, overwrite, mode) as file:
                file.writelines(assembled)
            return assembled.info

    def encode_batch(
        self,
        images: Iterable[pixels.Source],
        quality: int | None = None,
        *,
        return_errors: bool = False,
        **options: Unpack[EncodeOptions],
    ) -> list[Any]:
        """Encode several pictures, of any sizes, on a CPU as many at once as the engine has threads.

        Args:
            images: as for `encode`.
            quality: as for `encode`, as are **options.
            return_errors: put a VaecError or OSError in the place of its file, rather than raise the first.

        Returns:
            The files, in the order of the pictures.

        Example:
            >>> files = Codec().encode_batch(["a.png", "b.png"], 60)
        """
        return self._batch(lambda image: self.encode(image, quality, **options), images, return_errors=return_errors)

    def _attempt(
        self,
        rows: Rows,
        quality: int | None,
        metadata: dict[str, bytes],
        new_tiles: Callable[[int], list[Tile] | SpooledTiles],
        refining_steps: int,
    ) -> Attempt[Assembled]:
        """One encoding of a picture, None without loss; `new_tiles` makes room for a number of tiles."""
        height, width, channels = rows.shape
        model_id = NO_MODEL if quality is None else self.engine.model_id
        header = Header.of_picture(channels, width, height, model_id, quality or QUALITY_MAX)
        squared_error, tiles, is_plain, may_be_plain = 0, new_tiles(0), False, quality is None
        if quality is not None:
            wanted, tiles = header, new_tiles(header.tile_count)
            kind, refine = _refinement(refining_steps, self.kind)
            work = self.run(lambda engine: Encoder(rows, wanted, engine, tiles, refine).run(), kind=kind)
            header, squared_error = work
            colour = header.tile_count // (1 + header.pixel_format.has_alpha)
            modes = [tiles[number].mode for number in range(colour)]
            is_plain = all(mode in (TileMode.LEARNED, TileMode.SOLID) for mode in modes)
            may_be_plain = colour > 1 and 2 * sum(mode.is_learned for mode in modes) <= colour
        if may_be_plain:  # then as a whole, for what repeats from tile to tile
            exact = replace(header, tile_log2=plain_tile_log2_for(width, height), deblocking_cut=0)
            exact_tiles = new_tiles(exact.tile_count)
            encode_plain(rows, exact, exact_tiles)
            if quality is None or _payload_bytes(exact_tiles) < _payload_bytes(tiles):
                header, tiles, squared_error = exact, exact_tiles, 0
        samples = width * height * (channels - header.pixel_format.has_alpha)

        def score() -> float:
            shown = self._run_for(
                header, [tile.mode for tile in tiles], lambda engine: Decoder(tiles, header, engine).picture()
            )
            return ssimulacra2.score(to_rgb(rows.read(0, height)), to_rgb(shown))

        return Attempt(
            data=container.assemble(header, tiles, metadata),
            psnr_db=lambda: pixels.decibels(squared_error, samples),
            ssimulacra2=score,
            pixels=width * height,
            metadata_bytes=sum(map(len, metadata.values())),
            is_plain=is_plain,
        )

    # --- decoding ---

    @overload
    def decode(
        self, source: sources.Source, *, output: Literal["pil"] = "pil", **options: Unpack[DecodeOptions]
    ) -> "Image.Image": ...

    @overload
    def decode(
        self, source: sources.Source, *, output: Literal["numpy"], **options: Unpack[DecodeOptions]
    ) -> pixels.Samples: ...

    @overload
    def decode(
        self, source: sources.Source, *, output: Literal["torch"], **options: Unpack[DecodeOptions]
    ) -> "Tensor": ...

    def decode(
        self,
        source: sources.Source,
        *,
        output: Output = "pil",
        scale: float = 1,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        on_error: OnError = "raise",
    ) -> Any:
        """Decode a picture.

        Args:
            source: the .vaec file: bytes, a path, or an open binary file.
            output: "pil" (a Pillow image with its metadata in `info`), "numpy" (uint8 [H, W] or [H, W, C]) or "torch"
                (uint8 [C, H, W] on this codec's device).
            scale: 1, or 1/2, 1/4 or 1/8 for a preview of that scale, sides rounded up, in about half the time, at 1/8
                in a fifth to an eighth: an approximation of the reduced picture.
            max_pixels: refuse larger pictures before anything is allocated for them.
            on_error: "partial" shows damaged tiles in grey and warns, instead of raising.

        Raises:
            VaecError: the file is damaged, too large, or needs other weights or a newer version; see `vaecodec.errors`.
            OSError: it cannot be read.

        Example:
            >>> Codec().decode("photo.vaec", output="numpy", scale=1 / 8).shape
            (64, 96, 3)
        """
        wanted = Presentation.checked(output, scale, on_error)
        with translated_errors():
            return self._decode(self._read(source, max_pixels, wanted), wanted)

    def decode_file(
        self,
        source: sources.Source,
        target: Target,
        *,
        format: str | None = None,
        quality: int | None = None,
        subsampling: str | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        overwrite: bool = True,
        exif: Exif = KEEP,
        icc_profile: IccProfile = KEEP,
        xmp: Xmp = KEEP,
    ) -> Info:
        """Decode a .vaec file of any size into a picture file.

        Args:
            source: the .vaec file, as for `decode`; of one that is seekable only what is needed is read.
            target: path of the picture file, which is written whole or not at all; or an open binary file.
            format: Pillow's name of the format, such as "PNG"; None takes it from the suffix of the target. TIFF,
                and from 16 megapixels on PNG, PGM and PPM, are written by rows; otherwise Pillow collects the picture
                in memory, 4 bytes a pixel, and writes it, without loss where the format can.
            quality: of JPEG, WebP, AVIF and other lossy formats, 1 to 100. If it is not given, JPEG has the one that
                keeps what the .vaec file shows; others are lossless or near it.
            subsampling: of JPEG's colour, "4:2:0", "4:2:2" or "4:4:4"; by default the first, the last from 96 on.
            max_pixels: as for `decode`.
            overwrite: whether a file of that name may be replaced. A new one has the source's permissions.
            exif: as for `encode`, in the place of what the .vaec file carries.
            icc_profile: likewise.
            xmp: likewise.

        Returns:
            What `vaecodec.info` tells of the source.

        Raises:
            VaecImageError: (SUFFIX, FORMAT) there is no such format, (SAVE) it cannot hold the picture, (SAME_FILE) the
                target is the source.
            VaecError: as `decode`.
            OSError: a file cannot be read or written; FileExistsError if it may not be replaced.

        Example:
            >>> Codec().decode_file("map.vaec", "map.tif").header.width
            16384
        """
        chosen = writers.format_of(target) if format is None else writers.check_format(format)
        writers.check_quality(chosen, quality, subsampling)
        _check_distinct(source, target)
        mode = files.mode_of(source)
        with translated_errors(), sources.open_binary(source) as file:
            stored = StoredTiles(file, max_pixels=max_pixels)
            header = stored.info.header
            shape = header.height, header.width, header.pixel_format.channels
            kept = merge_metadata(stored.info.metadata, **overrides(exif=exif, icc_profile=icc_profile, xmp=xmp))
            if quality is None and TileMode.LEARNED in stored.modes:
                quality = writers.quality_after(chosen, header.quality)
            with _writable(target, overwrite, mode) as output:
                start = output.tell() if output.seekable() else 0

                def write(engine: Engine | None) -> None:
                    if output.seekable():  # where memory did not suffice on another device, all begins anew
                        output.seek(start)
                        output.truncate()
                    with closing(writers.open_sink(
                        output, chosen, shape, kept, quality=quality, subsampling=subsampling
                    )) as sink:  # fmt: skip
                        for band in Decoder(stored, header, engine).bands():
                            sink.write(band)
                        sink.finish()

                self._run_for(header, stored.modes, write)
            return stored.info

    @overload
    def decode_region(
        self, source: sources.Source, box: Box, *, output: Literal["pil"] = "pil", **options: Unpack[RegionOptions]
    ) -> "Image.Image": ...

    @overload
    def decode_region(
        self, source: sources.Source, box: Box, *, output: Literal["numpy"], **options: Unpack[RegionOptions]
    ) -> pixels.Samples: ...

    @overload
    def decode_region(
        self, source: sources.Source, box: Box, *, output: Literal["torch"], **options: Unpack[RegionOptions]
    ) -> "Tensor": ...

    def decode_region(
        self,
        source: sources.Source,
        box: Box,
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

        Example:
            >>> Codec().decode_region("map.vaec", (4096, 4096, 4608, 4608)).size
            (512, 512)
        """
        wanted = Presentation.checked(output)
        with translated_errors(), sources.open_binary(source) as file:
            stored = StoredTiles(file, max_pixels=max_pixels)
            header = stored.info.header
            window, arrays = window_of(box, header), self._arrays(output)
            picture = self._run_for(
                header, stored.modes,
                lambda engine: Decoder(stored, header, engine, window=window, arrays=arrays).picture(),
            )  # fmt: skip
            metadata = without_thumbnails(stored.info.metadata)  # which would show what was cut off
            return self.present(picture, metadata, wanted.output)

    @overload
    def decode_batch(
        self, files: Iterable[sources.Source], *, output: Literal["pil"] = "pil", **options: Unpack[BatchOptions]
    ) -> "list[Image.Image]": ...

    @overload
    def decode_batch(
        self, files: Iterable[sources.Source], *, output: Literal["numpy"], **options: Unpack[BatchOptions]
    ) -> list[pixels.Samples]: ...

    @overload
    def decode_batch(
        self, files: Iterable[sources.Source], *, output: Literal["torch"], **options: Unpack[BatchOptions]
    ) -> "list[Tensor]": ...

    def decode_batch(
        self,
        files: Iterable[sources.Source],
        *,
        return_errors: bool = False,
        output: Output = "pil",
        scale: float = 1,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """Decode several files: small ones of equal size go through the network together, others as in `encode_batch`.

        Args:
            files: as for `decode`, as are the other options.
            return_errors: put a VaecError or OSError in the place of its picture, rather than raise the first.
            output: as for `decode`.
            scale: as for `decode`.
            max_pixels: as for `decode`, of each.
            on_error: as for `decode`.

        Returns:
            The pictures, in the order of the files.

        Example:
            >>> [picture.size for picture in Codec().decode_batch(["a.vaec", "b.vaec"])]
            [(768, 512), (512, 768)]
        """
        wanted = Presentation.checked(output, scale, on_error)

        def read(source: sources.Source) -> Bitstream:
            with translated_errors():
                return self._read(source, max_pixels, wanted)

        def decode(stream: Bitstream) -> Any:
            with translated_errors():
                return self._decode(stream, wanted)

        found: list[Any] = threads.run(read, files, return_errors=return_errors)
        streams = {number: each for number, each in enumerate(found) if isinstance(each, Bitstream)}
        done = {} if wanted.partial or wanted.scale > 1 else self._decode_alike(streams, wanted)
        alone = [number for number in streams if number not in done]
        pictures = self._batch(decode, [streams[number] for number in alone], return_errors=return_errors)
        for number, picture in (*done.items(), *zip(alone, pictures, strict=True)):
            if isinstance(picture, VaecError) and not return_errors:
                raise picture
            found[number] = picture
        return found

    def _read(self, source: sources.Source, max_pixels: int | None, wanted: Presentation) -> Bitstream:
        return container.read(sources.read_all(source), max_pixels=max_pixels, partial=wanted.partial)

    def _decode(self, stream: Bitstream, wanted: Presentation) -> Any:
        damage: list[VaecError] = []
        arrays, report = self._arrays(wanted.output), damage.append if wanted.partial else None

        def decode(engine: Engine | None) -> Any:
            damage.clear()
            tiles, header = stream.tiles, stream.header
            return Decoder(tiles, header, engine, report=report, scale=wanted.scale, arrays=arrays).picture()

        picture = self._run_for(stream.header, [tile.mode for tile in stream.tiles if tile], decode)
        for error in (*stream.damage, *damage):
            warnings.warn(str(error), UserWarning, stacklevel=3)
        metadata = stream.metadata if wanted.scale == 1 else without_thumbnails(stream.metadata)
        return self.present(picture, metadata, wanted.output)

    def _decode_alike(self, streams: dict[int, Bitstream], wanted: Presentation) -> dict[int, Any]:
        """Pictures, or errors, of those that can be decoded with others, unless memory does not suffice for that."""
        done = dict[int, Any]()
        if sum(map(decoding.is_single, streams.values())) < 2:
            return done  # before the weights are loaded, which may not be needed at all
        arrays = self._arrays(wanted.output)
        with translated_errors():
            tunes = {self._tune_of(each.header) for each in streams.values() if decoding.is_single(each)}
            engines = [self._engine(tune) for tune in tunes]
            groups = ((engine, group) for engine in engines for group in decoding.alike(streams, engine))
            for engine, group in groups:
                work = functools.partial(decoding.decode_alike, group, engine, arrays)
                for number, picture in first_that_fits(work, dict[int, Any]).items():
                    is_error = isinstance(picture, VaecError)
                    metadata = streams[number].metadata
                    done[number] = picture if is_error else self.present(picture, metadata, wanted.output)
        return done

    # --- what both directions share ---

    def run(self, work: Callable[[Engine], Result], of: Header | None = None, kind: str | None = None) -> Result:
        """The work done by the engine that encodes, or by the one of a file.

        If the memory of its device does not suffice, its twin on the CPU does it, with a warning.

        Args:
            work: what to do.
            of: the header of the file, if it is about one.
            kind: of engine, if not the codec's.
        """
        tune = self.tune if of is None else self._tune_of(of)
        engine = self._engine(tune, kind)
        if engine.is_cpu:
            return work(engine)
        return first_that_fits(lambda: work(engine), lambda: work(self._engine_on_cpu(tune, kind)))

    def engine_of(self, header: Header, modes: Sequence[TileMode]) -> Engine | None:
        """The engine, if a tile needs it.

        Raises:
            VaecModelError: (MODEL_MISSING) the file names other weights.
        """
        if not any(mode.is_learned for mode in modes):
            return None
        engine = self._engine(self._tune_of(header))
        if engine.model_id != header.model_id:
            raise VaecModelError(
                f"the file was encoded with the model {header.model_id.hex()}, this is {engine.model_id.hex()}"
                f" ({self.model or 'built in'}): pass model= (--model) the weights file whose SHA-256 starts with it",
                code="MODEL_MISSING",
            )
        return engine

    def present(self, samples: Any, metadata: dict[str, bytes], output: Output) -> Any:
        """A picture [H, W, C], an array or already a tensor, as the caller wants it."""
        if output == "pil":
            return pixels.to_image(samples, metadata)
        if output == "torch":
            tensors = self._arrays("torch")
            return tensors.by_channels(tensors.take(samples, None))
        return samples[..., 0] if samples.shape[2] == 1 else samples

    def _run_for(self, header: Header, modes: Sequence[TileMode], work: Callable[[Engine | None], Result]) -> Result:
        """The work done with the engine that a file needs, or without one if no tile is learned."""
        return work(None) if self.engine_of(header, modes) is None else self.run(work, of=header)

    def _batch(self, work: Callable[[Any], Any], items: Iterable[Any], *, return_errors: bool) -> list[Any]:
        with translated_errors():
            engine = self.engine
        return threads.run(
            work, items, return_errors=return_errors, threads=engine.pictures_at_once, start=engine.use_one_thread
        )

    def _tune_of(self, header: Header) -> str:
        """Of the built-in weights that a file names, if it does."""
        return (built_in_tune(header.model_id) if self.model is None else None) or self.tune

    def _engine(self, tune: str, kind: str | None = None) -> Engine:
        kind = kind or self.kind
        if self.device == "cpu":
            return first_that_fits(lambda: engines.cached(self.model, tune, "cpu", kind))
        return first_that_fits(
            lambda: engines.cached(self.model, tune, self.device, kind), lambda: self._engine_on_cpu(tune, kind)
        )

    def _engine_on_cpu(self, tune: str, kind: str | None = None) -> Engine:
        warnings.warn(
            f"not enough memory on the device {self.device!r}: computing on the CPU", UserWarning, stacklevel=2
        )
        return engines.cached(self.model, tune, "cpu", kind or self.kind)

    def _arrays(self, output: Output) -> Any:
        """The kind of arrays that pictures come out as: tensors never leave their device."""
        if output != "torch":
            return NumpyArrays()
        from vaecodec.model.torch_engine.engine import TorchArrays  # torch loads only for those who ask for it

        return TorchArrays(self.device)


def _refinement(steps: int, kind: str) -> tuple[str, Refine | None]:
    """The kind of engine that encodes with so many steps of refinement, and what refines.

    Raises:
        VaecImageError: (ARGUMENT) the kind asked for cannot.
    """
    if not steps:
        return kind, None
    if kind == "native":
        raise VaecImageError("effort from 7 on needs torch: engine must be 'auto' or 'torch'", code="ARGUMENT")

    def refined(engine: Any, y: Any, inside: tuple[slice, slice], samples: pixels.Samples, quality: int) -> Any:
        from vaecodec.model.torch_engine.refine import refine  # torch loads only for those who ask for it

        return refine(engine, y, inside, samples, quality, steps)

    return "torch", refined


def _payload_bytes(tiles: Iterable[Tile]) -> int:
    return sum(len(tile.payload) for tile in tiles)


def _empty_tiles(count: int) -> list[Tile]:
    """Room for tiles in memory."""
    return [Tile(TileMode.SOLID, b"", 0)] * count


def _check_distinct(source: object, target: object) -> None:
    """Refuses to write a file over the one it is made of: what is lost could never be had again."""
    if files.is_same(source, target):
        message = f"target is the source, {files.path_of(target)!r}, must be another file: originals are kept"
        raise VaecImageError(message, code="SAME_FILE")


@contextmanager
def _writable(target: Target, overwrite: bool, mode: int | None) -> Iterator[BinaryIO]:
    if isinstance(target, str | os.PathLike):
        with files.writing(target, overwrite=overwrite, mode=mode) as file:
            yield file
    else:
        yield target
