"""What may come of a file that no encoder wrote: the laws, and a judge that holds a decoder to them."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fuzz.mutators import FORGED, Mutant
from fuzz.parts import CORRECTED, CORRECTION, LEARNED, Entry, Parts, claim, take_apart
from vaecodec import Codec
from vaecodec.errors import VaecError
from vaecodec.format import container

PICTURE = "picture"


class BrokenLawError(Exception):
    """Something came of a file that must not."""


class Judge:
    """Decodes mutants and holds what comes of them against the laws.

    1. Nothing but VaecError, or a picture of the size and format that the header claims.
    2. A mutant that is not sealed is never a picture. Decoded with on_error="partial", it is one only with a warning.
    3. A sealed mutant is a picture only if it is consistent in itself: every learned tile is, payload and content CRC
       together, one that an encoder wrote, and the samples of every other tile, and symbols of corrections, have the
       CRC that the file says.
       (Of a forged one, only law 1 is asked.)
    4. Through Pillow, only OSError comes out, or Pillow's own refusal of too large a picture.

    Args:
        codec: what decodes.
        seeds: the files that mutants are made of.
        max_pixels: as in `Codec.decode`.
    """

    def __init__(self, codec: Codec, seeds: Iterable[Parts], *, max_pixels: int) -> None:
        self.codec, self.max_pixels = codec, max_pixels
        self._written = {
            (_learned_payload(entry), entry.content_crc)
            for parts in seeds
            for entry in parts.entries
            if entry.mode in (LEARNED, CORRECTED)
        }

    def decode(self, mutant: Mutant) -> str:
        """Returns the code of the error, or PICTURE.

        Raises:
            BrokenLawError: law 1, 2 or 3 is broken.
            Exception: law 1 is broken.
        """
        try:
            samples = self.codec.decode(mutant.data, output="numpy", max_pixels=self.max_pixels)
        except VaecError as error:
            return error.code
        self._check_size(mutant.data, samples)
        if not mutant.is_sealed:
            raise BrokenLawError("a damaged file was shown as a picture")
        self._check_content(mutant, np.atleast_3d(samples))
        return PICTURE

    def decode_partial(self, mutant: Mutant) -> str:
        """The same of partial decoding; returns "damaged picture" where there was a warning."""
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                samples = self.codec.decode(mutant.data, output="numpy", max_pixels=self.max_pixels, on_error="partial")
            except VaecError as error:
                return error.code
        self._check_size(mutant.data, samples)
        if heard:
            return f"damaged {PICTURE}"
        if not mutant.is_sealed:
            raise BrokenLawError("a damaged file was shown as a picture without a warning")
        self._check_content(mutant, np.atleast_3d(samples))
        return PICTURE

    def open(self, mutant: Mutant) -> str:
        """The same through Pillow's `Image.open` and `load`."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(mutant.data), formats=("VAEC",)) as image:
                    if image.width * image.height > self.max_pixels:
                        return "MAX_PIXELS"
                    image.load()
        except VaecError as error:
            return error.code
        except (OSError, Image.DecompressionBombError) as error:
            return type(error).__name__
        samples = np.asarray(image)
        self._check_size(mutant.data, samples)
        if not mutant.is_sealed:
            raise BrokenLawError("a damaged file was opened as a picture")
        self._check_content(mutant, np.atleast_3d(samples))
        return PICTURE

    def _check_size(self, data: bytes, samples: NDArray[np.uint8]) -> None:
        found, claimed = np.atleast_3d(samples).shape, tuple(claim(data))
        if found != claimed or samples.dtype != np.uint8:
            raise BrokenLawError(f"picture is {found} {samples.dtype}, must be {claimed} uint8")

    def _check_content(self, mutant: Mutant, samples: NDArray[np.uint8]) -> None:
        if mutant.kind == FORGED:
            return
        parts = take_apart(mutant.data)
        (tile_log2,) = struct.unpack_from("<21xB", mutant.data)
        height, width, channels = samples.shape
        colours = channels - (channels in (2, 4))
        side = 1 << tile_log2
        planes = (slice(0, colours), slice(colours, channels))[: 1 + (colours < channels)]
        cuts = [
            samples[top : top + side, left : left + side, plane]
            for plane in planes
            for top in range(0, height, side)
            for left in range(0, width, side)
        ]
        for number, (entry, cut) in enumerate(zip(parts.entries, cuts, strict=True)):
            if entry.mode in (LEARNED, CORRECTED):
                if (_learned_payload(entry), entry.content_crc) not in self._written:
                    raise BrokenLawError(f"learned tile {number} was written by no encoder")
            elif zlib.crc32(cut.tobytes()) != entry.content_crc:
                raise BrokenLawError(f"samples of tile {number} do not have the CRC that the file says")
            if entry.mode == CORRECTED and not _has_its_correction(entry, cut.shape[2]):
                raise BrokenLawError(f"the correction of tile {number} does not have the CRC that the file says")


def _learned_payload(entry: Entry) -> bytes:
    if entry.mode == LEARNED:
        return entry.payload
    return entry.payload[CORRECTION.size :][: CORRECTION.unpack_from(entry.payload)[0]]


def _has_its_correction(entry: Entry, channels: int) -> bool:
    learned_bytes, crc, _ = CORRECTION.unpack_from(entry.payload)
    with Image.open(io.BytesIO(entry.payload[CORRECTION.size + learned_bytes :])) as image:
        return zlib.crc32(np.asarray(image)[..., :channels].tobytes()) == crc


def parse(data: bytes) -> str:
    """Reads a file without decoding it, in all three ways, which must agree; returns the code of the error or PICTURE.

    Partial reading goes on after a file that is cut short, and may find another fault in header or index then.

    Raises:
        BrokenLawError: strict, partial and header-only reading disagree.
        Exception: anything but VaecError came out.
    """
    strict = _code(lambda: container.read(data))
    try:
        damage = container.read(data, partial=True).damage
        partial = damage[0].code if damage else PICTURE
    except VaecError as error:
        partial = strict if strict == "SHORT_FILE" else error.code
    front = _code(lambda: container.read_info(io.BytesIO(data)))
    if partial != strict or front not in (PICTURE, strict):
        raise BrokenLawError(f"strict reading finds {strict}, partial {partial}, header-only {front}")
    return strict


def parse_strictly(mutant: Mutant) -> str:
    """Reads a mutant in the strict way only, which is quicker; returns as `parse`.

    Raises:
        BrokenLawError: the mutant is not sealed and was accepted.
    """
    code = _code(lambda: container.read(mutant.data))
    if code == PICTURE and not mutant.is_sealed:
        raise BrokenLawError("a damaged file was accepted")
    return code


def _code(act: Callable[[], object]) -> str:
    try:
        act()
    except VaecError as error:
        return error.code
    return PICTURE
