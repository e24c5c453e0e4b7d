"""The batches of `Codec`: many pictures in one call, errors apart."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple

from vaecodec import batches, bitstream, pixels, sources, tiles, together
from vaecodec.bitstream import DEFAULT_MAX_PIXELS
from vaecodec.errors import VaecError, VaecImageError
from vaecodec.exploring import ExploringCodec
from vaecodec.memory import clear_errors, first_that_fits
from vaecodec.streaming import Output, check_output

SCALES = (1, 1 / 2, 1 / 4, 1 / 8)


class Wanted(NamedTuple):
    """How pictures are to come out: as what, reduced by 1, 2, 4 or 8, and whether damaged, too."""

    output: Output
    scale: int
    partial: bool

    @classmethod
    def checked(cls, output: Output, scale: float, on_error: str) -> "Wanted":
        """Of the arguments of `Codec.decode`.

        Raises:
            VaecImageError: (ARGUMENT) one of them is none that there is.
        """
        check_output(output)
        if on_error not in ("raise", "partial"):
            raise VaecImageError(f"on_error is {on_error!r}, must be 'raise' or 'partial'", code="ARGUMENT")
        if scale not in SCALES:
            raise VaecImageError(f"scale is {scale!r}, must be 1, 1/2, 1/4 or 1/8", code="ARGUMENT")
        return cls(output, round(1 / scale), on_error == "partial")


class BatchCodec(ExploringCodec):
    """What `Codec` offers for many pictures."""

    @abstractmethod
    def encode(self, image: pixels.Source, quality: int | None = None, **options: Any) -> bytes:
        """Encode a picture."""

    @abstractmethod
    def _decode_stream(self, stream: bitstream.Bitstream, wanted: Wanted) -> Any: ...

    @abstractmethod
    def _medium(self, output: Output) -> tiles.Medium: ...

    def encode_batch(
        self,
        images: Iterable[pixels.Source],
        quality: int | None = None,
        *,
        return_errors: bool = False,
        **options: Any,
    ) -> list[Any]:
        """Encode several pictures, of any sizes, on a CPU as many at once as torch has threads.

        Args:
            images: as for `encode`.
            quality: as for `encode`, as are **options.
            return_errors: put a VaecError or OSError in the place of its file, rather than raise the first.

        Returns:
            The files, in the order of the pictures.
        """
        return self._batch(lambda image: self.encode(image, quality, **options), images, return_errors=return_errors)

    def decode_batch(
        self,
        files: Iterable[sources.Source],
        *,
        return_errors: bool = False,
        output: Output = "pil",
        scale: float = 1,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        on_error: Literal["raise", "partial"] = "raise",
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
        """
        wanted = Wanted.checked(output, scale, on_error)

        def read(source: sources.Source) -> bitstream.Bitstream:
            with clear_errors():
                return bitstream.read(sources.read_all(source), max_pixels=max_pixels, partial=wanted.partial)

        def decode(stream: bitstream.Bitstream) -> Any:
            with clear_errors():
                return self._decode_stream(stream, wanted)

        found: list[Any] = batches.run(read, files, return_errors=return_errors, at_once=False)
        streams = {number: each for number, each in enumerate(found) if isinstance(each, bitstream.Bitstream)}
        done = {} if wanted.partial or wanted.scale > 1 else self._decode_together(streams, wanted)
        alone = [number for number in streams if number not in done]
        pictures = self._batch(decode, [streams[number] for number in alone], return_errors=return_errors)
        for number, picture in (*done.items(), *zip(alone, pictures, strict=True)):
            if isinstance(picture, VaecError) and not return_errors:
                raise picture
            found[number] = picture
        return found

    def _decode_together(self, streams: dict[int, bitstream.Bitstream], wanted: Wanted) -> dict[int, Any]:
        """Pictures, or errors, of those that can be decoded with others, unless memory does not suffice for that."""
        done = dict[int, Any]()
        if sum(together.single_of(stream) is not None for stream in streams.values()) < 2:
            return done  # before the weights are loaded, which may not be needed at all
        with clear_errors():
            for group in together.groups(streams, self.network):
                work = partial(together.decode, group, self.network, self._medium(wanted.output))
                for number, picture in first_that_fits(work, dict[int, Any]).items():
                    is_error = isinstance(picture, VaecError)
                    metadata = streams[number].metadata
                    done[number] = picture if is_error else self._present(picture, metadata, wanted.output)
        return done

    def _batch(self, work: Callable[[Any], Any], items: Iterable[Any], *, return_errors: bool) -> list[Any]:
        return batches.run(work, items, return_errors=return_errors, at_once=self.network.device.type == "cpu")
