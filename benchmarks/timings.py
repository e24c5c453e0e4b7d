"""Measures one picture size in one process: all codecs in turn, stages, batches, peak memory."""

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from PIL import Image

import vaecodec
from benchmarks import codecs, datasets
from benchmarks.adapter import Codec, UnavailableError
from benchmarks.tables import OURS

QUALITY = {
    OURS: 75, "jpeg": 75, "jpeg-420": 75, "jpeg-444": 70, "webp": 80, "avif": 75, "avif-444": 75, "jpeg2000": 13,
    "heic": 50, "jxl": 85, "bmshj2018-hyperprior": 4, "mbt2018-mean": 4,
}  # fmt: skip
"""vaecodec, JPEG and AVIF at their defaults, the others where their files are about as large as JPEG's."""

LARGEST_MP = {OURS: 300.0, "jpeg": 300.0, "avif": 300.0, "mbt2018-mean": 13.0}
"""Largest size at which a codec is measured; codecs that are not listed are measured only at the small size."""
SMALL_MP = 1.0

STEADY_MP = 2.0
"""Larger pictures are repeated less often, because brief disturbances affect long runs less."""


class Sample(NamedTuple):
    """One call: seconds, and seconds by stage if the codec reports them."""

    seconds: float
    stages: dict[str, float] | None


Samples = dict[Codec, list[tuple[Sample, Sample]]]


def names_at(names: Iterable[str], megapixels: float) -> list[str]:
    """The codecs that are measured at a size."""
    return [name for name in names if megapixels <= LARGEST_MP.get(name, SMALL_MP)]


def repeats_at(repeats: int, megapixels: float) -> int:
    """The number of repeats at a size, given that of small pictures."""
    return max(1, min(repeats, round(repeats * STEADY_MP / megapixels)))


def pictures_of(megapixels: float, data: str | None, count: int = 1) -> list[Image.Image]:
    """Pictures of 3:2 and the given megapixels, from the first `count` photographs of a data set.

    Each consists of mirrored copies of its photograph side by side, to keep the level of detail.
    """
    return [_sheet(found.load(), megapixels) for found in datasets.find(data).pictures[:count]]


def _sheet(source: Image.Image, megapixels: float) -> Image.Image:
    height = max(16, round((megapixels * 1e6 / 1.5) ** 0.5))
    width = round(height * 1.5)
    sheet = Image.new("RGB", (width, height))
    for row in range(-(-height // source.height)):
        for column in range(-(-width // source.width)):
            tile = source.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if row % 2 else source
            tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if column % 2 else tile
            sheet.paste(tile, (column * source.width, row * source.height))
    return sheet


def measure(
    images: Sequence[Image.Image], ours: Codec, others: Callable[[], Sequence[Codec]], *, repeats: int
) -> dict[str, Any]:
    """All figures for pictures of one size.

    Args:
        images: RGB, one or more.
        ours: vaecodec's adapter.
        others: opens the other codecs; called after vaecodec's memory has been read.
        repeats: turns of every picture; times are medians over all.
    """
    files = {ours: _round_trips(images, ours)}
    peak_bytes = peak_rss_bytes()
    files |= {codec: _round_trips(images, codec) for codec in others()}
    samples = _in_turn(images, files, repeats)
    width, height = images[0].size
    return {
        "width": width, "height": height, "megapixels": round(width * height / 1e6, 3),
        "pictures": len(images), "repeats": repeats, "peak_rss_bytes": peak_bytes,
        "codecs": {codec.name: _summary(codec, files[codec], samples, ours) for codec in files},
    }  # fmt: skip


def measure_batch(image: Image.Image, codec: vaecodec.Codec, *, count: int, repeats: int) -> dict[str, Any]:
    """Measures a batch of `count` pictures of one size, in turn with single pictures.

    The pictures are flipped in various ways, so they are not copies of each other.
    """
    turns = [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180]
    different = [image, *(image.transpose(turn) for turn in turns)]
    pictures = [different[number % len(different)] for number in range(count)]
    quality = QUALITY[OURS]
    files = codec.encode_batch(pictures, quality)
    actions: dict[str, Callable[[], object]] = {
        "encode_s": lambda: codec.encode_batch(pictures, quality),
        "decode_s": lambda: codec.decode_batch(files),
        "encode_one_by_one_s": lambda: [codec.encode(picture, quality) for picture in pictures],
        "decode_one_by_one_s": lambda: [codec.decode(file) for file in files],
    }
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            times[name].append(_seconds(action))
    return {"pictures": count, **{name: round(statistics.median(each), 6) for name, each in times.items()}}


def peak_rss_bytes() -> int | None:
    """The peak resident memory of this process in bytes; None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def open_others(names: Iterable[str]) -> list[Codec]:
    """The installed codecs; prints the reasons for the others."""
    opened = []
    for name in names:
        try:
            opened.append(codecs.open_codec(name))
        except UnavailableError as reason:
            print(f"{name}: skipped: {reason}", file=sys.stderr)
    return opened


def _round_trips(images: Sequence[Image.Image], codec: Codec) -> list[bytes]:
    """Encodes all pictures and decodes the files once, as warm-up; returns the files."""
    files = [codec.encode(image, QUALITY[codec.name]) for image in images]
    for file in files:
        codec.decode(file)
    return files


def _in_turn(images: Sequence[Image.Image], files: dict[Codec, list[bytes]], repeats: int) -> Samples:
    """Samples of all codecs, measured in turn for every picture, so that disturbances affect all alike."""
    from benchmarks import stages  # loads torch, which the parent process does not need

    samples: Samples = {codec: [] for codec in files}
    with stages.watched() as watch:
        for number in list(range(len(images))) * repeats:
            for codec in files:
                image, file = images[number], files[codec][number]
                taken = watch.take if codec.name == OURS else codec.stages
                encode = _sample(lambda codec=codec, image=image: codec.encode(image, QUALITY[codec.name]), taken)
                decode = _sample(lambda codec=codec, file=file: codec.decode(file), taken)
                samples[codec].append((encode, decode))
                watch.take()
    for pair in (pair for codec in files if codec.name == OURS for pair in samples[codec]):
        for sample in pair:
            if sample.stages is not None:
                sample.stages[stages.REST] = sample.seconds - sum(sample.stages.values())
    return samples


def _sample(action: Callable[[], object], taken: Callable[[], dict[str, float]] | None) -> Sample:
    seconds = _seconds(action)
    return Sample(seconds, taken() if taken else None)


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _summary(codec: Codec, files: Sequence[bytes], samples: Samples, ours: Codec) -> dict[str, Any]:
    """The record of a codec: medians, and the median ratio of vaecodec's time to its time for the same picture.

    `file_bytes` is the median file size.
    """
    file_bytes = round(statistics.median(map(len, files)))
    summary: dict[str, Any] = {"quality": QUALITY[codec.name], "file_bytes": file_bytes}
    if codec.timing_only:
        summary["timing_only"] = True
    for number, action in enumerate(("encode", "decode")):
        each = [pair[number] for pair in samples[codec]]
        own = [pair[number] for pair in samples[ours]]
        summary[f"{action}_s"] = round(statistics.median(sample.seconds for sample in each), 6)
        ratios = [mine.seconds / other.seconds for mine, other in zip(own, each, strict=True)]
        summary[f"{action}_ratio"] = round(statistics.median(ratios), 4)
        stages = [sample.stages for sample in each if sample.stages]
        if stages:
            summary[f"{action}_stages_s"] = {
                name: round(statistics.median(one[name] for one in stages), 6) for name in stages[0]
            }
    return summary
