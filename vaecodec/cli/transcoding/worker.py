"""The worker: reads, encodes, checks and writes one picture, and returns its record for the manifest."""

import io
import math
import os
import platform
import time
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from vaecodec.cli.transcoding.manifest import Record
from vaecodec.cli.transcoding.places import Place
from vaecodec.codec import Codec
from vaecodec.errors import VaecError, VaecImageError, VaecLimitError, VaecModelError
from vaecodec.format import container, records
from vaecodec.pictures import fidelity, pixels


class Job(NamedTuple):
    """A picture to encode: its name in the source, and the name of its file in the target."""

    path: str
    output: str


@dataclass(frozen=True)
class Work:
    """The settings that all workers share.

    Attributes:
        source: where the pictures are.
        target: where the .vaec files go.
        quality: 1 to 100; None ("auto") is that of each lossy picture, and the codec's default for others.
        model: path of a weights file that every machine has; None uses the built-in ones.
        model_id: first 4 bytes of the SHA-256 of the weights, as hexadecimal digits; equal on every worker.
        device: a torch device.
        max_pixels: larger pictures fail.
    """

    source: Place
    target: Place
    quality: int | None
    model: str | None
    model_id: str
    device: str
    max_pixels: int | None


class Transcoder:
    """Encodes pictures one after the other, with weights that it loads once.

    Raises:
        VaecModelError: the weights cannot be loaded, or (MODEL_DIFFERS) differ from those of the other workers.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.codec = Codec(work.model, work.device)
        model_id = self.codec.engine.model_id.hex()
        if model_id != work.model_id:
            raise VaecModelError(
                f"the weights on {platform.node()} are {model_id}, must be {work.model_id} on every machine",
                code="MODEL_DIFFERS",
            )

    def __call__(self, job: Job) -> Record:
        """Encodes one picture; the record contains any error."""
        start_s = time.perf_counter()
        label = {"path": job.path, "worker": f"{platform.node()}:{os.getpid()}"}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                facts = self._encode(job)
            except Exception as error:  # the next picture may be fine
                return {**label, "status": "failed", "code": _code(error), "message": _message(error)}
        extra = {"warnings": [str(each.message) for each in caught]} if caught else {}
        return {**label, "status": "done", **facts, **extra, "seconds": round(time.perf_counter() - start_s, 3)}

    def _encode(self, job: Job) -> dict[str, Any]:
        content = self.work.source.read(job.path)
        with _open(content) as image:
            records.check_size(*image.size, max_pixels=self.work.max_pixels)
            samples = pixels.to_samples(image)
            metadata: dict[str, Any] = {**pixels.metadata_of(image)}
            pixels.warn_of_losses(image)
            worth = None if self.work.quality else fidelity.estimate(image, content)
        quality = worth.vaec_quality if worth else self.work.quality
        data = self.codec.encode(samples, quality, max_pixels=self.work.max_pixels, **metadata)
        header = container.read_info(io.BytesIO(data), max_pixels=None).header
        psnr_db = self._psnr_db(samples, data)  # before writing: this also checks that the file decodes
        self.work.target.write(job.output, data)
        return {
            "output": job.output,
            "width": header.width,
            "height": header.height,
            "mode": header.pixel_format.mode,
            "quality": header.quality,
            "requested_quality": self.work.quality,
            "model_id": self.work.model_id,
            "input_bytes": len(content),
            "output_bytes": len(data),
            "bpp": round(8 * len(data) / (header.width * header.height), 4),
            "psnr_db": round(psnr_db, 4) if math.isfinite(psnr_db) else None,
        }

    def _psnr_db(self, samples: pixels.Samples, data: bytes) -> float:
        decoded = np.atleast_3d(self.codec.decode(data, output="numpy", max_pixels=None))
        colours = samples.shape[2] - (samples.shape[2] in (2, 4))
        return pixels.psnr_db(samples[..., :colours], decoded[..., :colours])


def _open(content: bytes) -> Image.Image:
    try:
        return pixels.open_image(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise VaecImageError("not a picture that Pillow can read", code="INPUT") from error
    except Image.DecompressionBombError as error:
        raise VaecLimitError(str(error), code="MAX_PIXELS") from error


def _code(error: Exception) -> str:
    if isinstance(error, VaecError):
        return error.code
    if isinstance(error, MemoryError):
        return "MEMORY"
    return "IO" if isinstance(error, OSError) else "INTERNAL"


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, VaecError) else f"{type(error).__name__}: {error}"
