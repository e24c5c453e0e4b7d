"""Encodes pictures to .vaec bytes and decodes them: the whole pipeline, with the weights loaded once."""

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
from vaecodec.model.architecture import DEFAULT_TUNE, built_in_tune
from vaecodec.model.engine import Engine
from vaecodec.pictures import exif as exif_blocks
from vaecodec.pictures import pixels, row_files, ssimulacra2, writers
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
    """Encodes and decodes with one set of weights on one device. Stateless after construction and thread-safe.

    Args:
        model: path of a weights file; None uses the built-in weights.
        device: "auto" (CUDA if torch is loaded and has it, else CPU) or a torch device such as "cpu" or "cuda:1".
        tune: which built-in weights encode: "eye" looks best at equal bytes, "psnr" has the lowest squared error.
            Files name their weights, so decoding does not depend on it.
        engine: "native" is a small library for CPUs, without torch; "torch" also runs on GPUs; "auto" follows the
            environment variable VAECODEC_ENGINE, or else uses the native engine on CPUs if it is installed.

    Raises:
        VaecImageError: (ARGUMENT) there is no such tune or engine.

    The weights are loaded with the first picture that needs them. Torch's global settings stay unchanged, with one
    exception: a process that was forked while torch was loaded gets one torch thread, as in torch's DataLoader workers,
    because torch would wait forever for the parent's threads.
    If the device has too little memory for a picture, it is computed in parts, and then on the CPU, with a warning.

    Example:
        >>> codec = vaecodec.Codec()
        >>> data = codec.encode("photo.png", quality=60)
        >>> codec.decode(data).size
        (768, 512)
    """

    def __init__(
        self, model: Model = None, device: str = "auto", tune: str = DEFAULT_TUNE, engine: str = "auto"
    ) -> None:
        self.model = None if model is None else str(model)
        self.device, self.tune, self.kind = device, engines.check_tune(tune), engines.check(engine)

    def __repr__(self) -> str:
        return f"Codec(model={self.model!r}, device={self.device!r}, tune={self.tune!r}, engine={self.kind!r})"

    @property
    def engine(self) -> Engine:
        """The engine that encodes, with its weights loaded.

        Raises:
            VaecModelError: the weights are missing or damaged, or the device does not exist.
            VaecResourceError: neither the device nor the computer has enough memory for them.

        Example:
            >>> Codec().engine.arch.latent_channels
            384
        """
        return self._engine(self.tune)

    @property
    def explore(self) -> "Explorer":
        """Other uses of the latents: features, rate maps, interpolation, samples from the prior.

        Example:
            >>> Codec().explore.features("photo.png").y.shape
            (384, 32, 48)
        """
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
        quality_map: pixels.Source | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        exif: Exif = KEEP,
        icc_profile: IccProfile = KEEP,
        xmp: Xmp = KEEP,
    ) -> bytes:
        """Encode a picture.

        Args:
            image: Pillow image, path, bytes of a picture file, open binary file, uint8 array [H, W] or [H, W, C] (C: 1
                L, 2 LA, 3 RGB, 4 RGBA), or uint8 torch tensor [C, H, W]. Alpha is stored losslessly.
            quality: 1 (smallest) to 100 (about 43 dB on photographs); 75 if neither a quality nor a target is given.
            target_bytes: use the highest quality whose file, metadata included, fits into this many bytes.
            target_bpp: use the highest quality whose file has at most this many bits per pixel.
            target_psnr: use the lowest quality that reaches this PSNR in dB, not counting alpha.
            target_ssimulacra2: use the lowest quality that reaches this score, not counting alpha: at 90 nobody sees a
                difference when swapped in place, at 80 side by side; 70 is high quality, 50 medium. The picture is held
                in memory, at about 200 bytes per pixel, and must have at least 8 pixels a side.
            lossless: keep every sample; needs no weights.
            effort: 1 to 9. At 7, 8 and 9, symbols are refined against the decoder in 100, 300 and 1000 steps, using
                torch; each step takes two to six times as long as a normal encoding. In rate + distortion on crops, eye
                weights then gain 2 % of the rate at 7 and 4 % at 8, psnr weights 1 to 2 %. 1 to 6 encode alike. From 7
                on, not with `lossless`.
            quality_map: a grey picture, as `image`: white where the picture matters, black where it does not. There,
                quantizer steps are four times as large: at 75, as 33 qualities below. It is stretched over the picture
                as people see it, EXIF orientation included, and takes effect in blocks of 64 x 64 pixels, but not in
                tiles that are stored without loss. Targets still count the whole picture. Not with `lossless` or an
                `effort` from 7 on.
            max_pixels: refuse larger pictures before reading their pixels; None leaves only the format's limit, 2^28.
            exif: bytes or a `PIL.Image.Exif` that replaces the image's own EXIF; None drops it.
            icc_profile: bytes that replace the image's own profile; None drops it.
            xmp: bytes or a str that replaces the image's own XMP; None drops it.

        Returns:
            The bytes of the .vaec file.

        Raises:
            VaecImageError: the picture's mode, size or type cannot be encoded, or an argument is out of range.
            VaecLimitError: the picture has more pixels than allowed.
            VaecTargetError: no quality from 1 to 100 meets the target.
            VaecModelError: the weights cannot be loaded.
            VaecResourceError: memory ran out.
            VaecUnsupportedError: (WEBP_MISSING) Pillow was built without WebP, which lossless tiles need.
            OSError: the file cannot be read.

        Example:
            >>> data = Codec().encode("photo.png", target_bpp=0.5, exif=None)
        """
        goal = rate_goal(
            quality, bytes=target_bytes, bpp=target_bpp, psnr=target_psnr, ssimulacra2=target_ssimulacra2,
            lossless=lossless,
        )  # fmt: skip
        metadata = overrides(exif=exif, icc_profile=icc_profile, xmp=xmp)
        steps = refining_steps(effort, lossless=lossless, has_map=quality_map is not None)
        with (
            translated_errors(),
            closing(_opener(image)(image, max_pixels=max_pixels, overrides=metadata)) as rows,
        ):
            extra = merge_metadata(rows.metadata, **metadata) if metadata else rows.metadata
            multiples = _multiples(quality_map, rows, extra, max_pixels)
            attempt = functools.partial(
                self._attempt, rows, metadata=extra, new_tiles=_empty_tiles, refining_steps=steps, multiples=multiples
            )
            return b"".join(goal.search(attempt))

    def encode_file(
        self,
        source: pixels.RowSource,
        target: Target,
        quality: int | None = None,
        *,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        target_psnr: float | None = None,
        target_ssimulacra2: float | None = None,
        lossless: bool = False,
        effort: int = DEFAULT_EFFORT,
        quality_map: pixels.Source | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        overwrite: bool = True,
        exif: Exif = KEEP,
        icc_profile: IccProfile = KEEP,
        xmp: Xmp = KEEP,
    ) -> Info:
        """Encode a picture of any size into a file: the same bytes as from `encode`, with less memory.

        Holds two rows of tiles in memory, which are 2048 rows of the picture.

        Args:
            source: as for `encode`; or an object like `pixels.Rows`, which is closed afterwards. Arrays (including
                memory-mapped, zarr and h5py arrays), PGM and PPM files are read by rows. So are PNG, JPEG and TIFF
                files of more than 16 megapixels, if pyvips is installed (extra [big]). Pillow decodes other files as a
                whole, which takes up to 4 bytes per pixel.
            target: path of the .vaec file, written atomically; or an open binary file.
            quality: as for `encode`, like all keywords of the same names. Every attempt of the search for a target
                reads the picture again.
            overwrite: whether an existing file may be replaced. A new file gets the source's permissions.

        Returns:
            The result of `vaecodec.info` for the file.

        Raises:
            VaecImageError: (SAME_FILE) the target is the source.
            VaecError: as `encode`.
            OSError: a file cannot be read or written; FileExistsError if the target exists and `overwrite` is False.

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
        metadata = overrides(exif=exif, icc_profile=icc_profile, xmp=xmp)
        steps = refining_steps(effort, lossless=lossless, has_map=quality_map is not None)
        mode = files.mode_of(source)  # before it is read: a pipe or an image may be closed then
        with translated_errors(), ExitStack() as opened:
            rows = _opener(source)(source, max_pixels=max_pixels, overrides=metadata)
            opened.enter_context(closing(rows))
            extra = merge_metadata(rows.metadata, **metadata) if metadata else rows.metadata
            multiples = _multiples(quality_map, rows, extra, max_pixels)

            def spooled(count: int) -> SpooledTiles:
                beside = target if isinstance(target, str | os.PathLike) else None
                return opened.enter_context(closing(SpooledTiles(count, beside)))

            attempt = functools.partial(
                self._attempt, rows, metadata=extra, new_tiles=spooled, refining_steps=steps, multiples=multiples
            )
            assembled = goal.search(attempt)
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
        """Encode several pictures, of any sizes; on a CPU, as many at a time as the engine has threads.

        Args:
            images: as for `encode`.
            quality: as for `encode`, like **options.
            return_errors: return a VaecError or OSError in place of its file, instead of raising the first one.

        Returns:
            The files as bytes, in the order of the pictures.

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
        multiples: pixels.Samples | None,
    ) -> Attempt[Assembled]:
        """Encodes a picture once; quality None is lossless. `new_tiles` returns storage for a number of tiles."""
        height, width, channels = rows.shape
        model_id = NO_MODEL if quality is None else self.engine.model_id
        header = Header.of_picture(channels, width, height, model_id, quality or QUALITY_MAX)
        squared_error, tiles, is_plain, may_be_plain = 0, new_tiles(0), False, quality is None
        if quality is not None:
            wanted, tiles = header, new_tiles(header.tile_count)
            kind, refine = _refinement(refining_steps, self.kind)
            work = self.run(lambda engine: Encoder(rows, wanted, engine, tiles, refine, multiples).run(), kind=kind)
            header, squared_error = work
            colour = header.tile_count // (1 + header.pixel_format.has_alpha)
            modes = [tiles[number].mode for number in range(colour)]
            is_plain = all(mode in (TileMode.LEARNED, TileMode.SOLID) for mode in modes)
            may_be_plain = colour > 1 and 2 * sum(mode.is_learned for mode in modes) <= colour
        if may_be_plain:  # try larger tiles, for content that repeats from tile to tile
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
            scale: 1, or 1/2, 1/4 or 1/8 for a preview, with sides rounded up: an approximation of the downscaled
                picture. It takes about half the time, at 1/8 a fifth to an eighth.
            max_pixels: refuse larger pictures before allocating anything for them.
            on_error: "partial" shows damaged tiles in grey and warns, instead of raising.

        Returns:
            The picture, as `output` says.

        Raises:
            VaecError: the file is damaged, too large, or needs other weights or a newer version; see `vaecodec.errors`.
            OSError: the file cannot be read.

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
            source: the .vaec file, as for `decode`. If it is seekable, only the necessary parts are read.
            target: path of the picture file, written atomically; or an open binary file.
            format: Pillow's name of the format, such as "PNG"; None takes it from the suffix of the target. TIFF is
                written by rows, as are PNG, PGM and PPM from 16 megapixels up. Other pictures are collected in memory,
                at 4 bytes per pixel, and written by Pillow, losslessly if the format can.
            quality: 1 to 100, for JPEG, WebP, AVIF and other lossy formats. By default, JPEG gets the quality that
                matches the .vaec file; other formats are lossless or nearly so.
            subsampling: JPEG's chroma subsampling, "4:2:0", "4:2:2" or "4:4:4". The default is "4:2:0", and "4:4:4"
                from quality 96 up.
            max_pixels: as for `decode`.
            overwrite: whether an existing file may be replaced. A new file gets the source's permissions.
            exif: as for `encode`; replaces the EXIF of the .vaec file.
            icc_profile: as for `encode`.
            xmp: as for `encode`.

        Returns:
            The result of `vaecodec.info` for the source.

        Raises:
            VaecImageError: (SUFFIX, FORMAT) there is no such format; (SAVE) it cannot hold the picture; (SAME_FILE) the
                target is the source.
            VaecError: as `decode`.
            OSError: a file cannot be read or written; FileExistsError if the target exists and `overwrite` is False.

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
                    if output.seekable():  # a previous attempt may have run out of memory on another device
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
        """Decode a rectangle of a picture, reading only the tiles that it touches: equal to a crop of the whole.

        Args:
            source: as for `decode_file`.
            box: (left, top, right, bottom) in pixels, within the picture, as Pillow's `Image.crop` takes it.
            output: as for `decode`.
            max_pixels: as for `decode`; limits the whole picture.

        Returns:
            The rectangle, as `output` says.

        Raises:
            VaecImageError: (BOX) the box is empty or extends beyond the picture.
            VaecError: as `decode`, for the tiles that are needed.
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
            files: as for `decode`.
            return_errors: return a VaecError or OSError in place of its picture, instead of raising the first one.
            output: as for `decode`.
            scale: as for `decode`.
            max_pixels: as for `decode`; limits each picture.
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
        """Pictures, or errors, of the files that can be decoded together; empty if memory does not suffice for that."""
        done = dict[int, Any]()
        if sum(map(decoding.is_single, streams.values())) < 2:
            return done  # without loading the weights, which may not be needed at all
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
        """Does the work with the engine that encodes, or with the one that a file needs.

        If its device runs out of memory, the same weights do it on the CPU, with a warning.

        Args:
            work: the function to call.
            of: the header of the file, for work on a file.
            kind: kind of engine, if not the codec's own.
        """
        tune = self.tune if of is None else self._tune_of(of)
        engine = self._engine(tune, kind)
        if engine.is_cpu:
            return work(engine)
        return first_that_fits(lambda: work(engine), lambda: work(self._engine_on_cpu(tune, kind)))

    def engine_of(self, header: Header, modes: Sequence[TileMode]) -> Engine | None:
        """The engine for a file; None if no tile is learned.

        Raises:
            VaecModelError: (MODEL_MISSING) the file names other weights.
        """
        if not any(mode.is_learned for mode in modes):
            return None
        engine = self._engine(self._tune_of(header))
        if engine.model_id != header.model_id:
            raise VaecModelError(
                f"the file needs the model {header.model_id.hex()}, but {engine.model_id.hex()} is loaded"
                f" ({self.model or 'built in'}): pass the weights file with that SHA-256 prefix as model= (--model)",
                code="MODEL_MISSING",
            )
        return engine

    def present(self, samples: Any, metadata: dict[str, bytes], output: Output) -> Any:
        """Converts a picture [H, W, C], an array or a tensor, to the requested output."""
        if output == "pil":
            return pixels.to_image(samples, metadata)
        if output == "torch":
            tensors = self._arrays("torch")
            return tensors.by_channels(tensors.take(samples, None))
        return samples[..., 0] if samples.shape[2] == 1 else samples

    def _run_for(self, header: Header, modes: Sequence[TileMode], work: Callable[[Engine | None], Result]) -> Result:
        """Does the work with the engine that a file needs, or with None if no tile is learned."""
        return work(None) if self.engine_of(header, modes) is None else self.run(work, of=header)

    def _batch(self, work: Callable[[Any], Any], items: Iterable[Any], *, return_errors: bool) -> list[Any]:
        with translated_errors():
            engine = self.engine
        return threads.run(
            work, items, return_errors=return_errors, threads=engine.pictures_at_once, start=engine.use_one_thread
        )

    def _tune_of(self, header: Header) -> str:
        """The tune of the built-in weights that a file names, or else that of this codec."""
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
        """The array type of the output; tensors never leave their device."""
        if output != "torch":
            return NumpyArrays()
        from vaecodec.model.torch_engine.engine import TorchArrays  # loads torch only if it is needed

        return TorchArrays(self.device)


def _refinement(steps: int, kind: str) -> tuple[str, Refine | None]:
    """The kind of engine that encodes with this many refinement steps, and the function that refines.

    Raises:
        VaecImageError: (ARGUMENT) the requested kind cannot refine.
    """
    if not steps:
        return kind, None
    if kind == "native":
        raise VaecImageError("effort 7 and up needs torch: engine must be 'auto' or 'torch'", code="ARGUMENT")

    def refined(engine: Any, y: Any, inside: tuple[slice, slice], samples: pixels.Samples, quality: int) -> Any:
        from vaecodec.training.refine import refine  # loads torch only if it is needed

        return refine(engine, y, inside, samples, quality, steps)

    return "torch", refined


def _opener(source: object) -> Callable[..., Rows]:
    """The function that opens a source by rows."""
    return row_files.open_file if isinstance(source, str | os.PathLike) else pixels.open_rows


def _multiples(
    quality_map: pixels.Source | None, rows: Rows, metadata: dict[str, bytes], max_pixels: int | None
) -> pixels.Samples | None:
    """The step multiples for a picture with this metadata; raises as `quality_map.read`."""
    if quality_map is None:
        return None
    from vaecodec.pictures.quality_map import read  # deferred: most pictures have none
    from vaecodec.tiling.multiples import step_multiples

    seen = read(quality_map, max_pixels)
    return step_multiples(seen, *rows.shape[:2], exif_blocks.orientation(metadata.get("exif", b"")))


def _payload_bytes(tiles: Iterable[Tile]) -> int:
    return sum(len(tile.payload) for tile in tiles)


def _empty_tiles(count: int) -> list[Tile]:
    """Room for tiles in memory."""
    return [Tile(TileMode.SOLID, b"", 0)] * count


def _check_distinct(source: object, target: object) -> None:
    """Refuses to overwrite the source, since lossy coding cannot be undone."""
    if files.is_same(source, target):
        message = f"the target is the source, {files.path_of(target)!r}: choose another file"
        raise VaecImageError(message, code="SAME_FILE")


@contextmanager
def _writable(target: Target, overwrite: bool, mode: int | None) -> Iterator[BinaryIO]:
    if isinstance(target, str | os.PathLike):
        with files.writing(target, overwrite=overwrite, mode=mode) as file:
            yield file
    else:
        yield target
