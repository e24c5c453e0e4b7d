"""Codecs that need more than a wheel: JPEG on the GPU, and CompressAI's learned codecs."""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from PIL import Image

from benchmarks import gpu_jpeg
from benchmarks.adapter import Codec, UnavailableError

WORKER = Path(__file__).with_name("compressai_worker.py")
PYTHON = "VAECODEC_COMPRESSAI"
"""Environment variable: the Python with CompressAI, which may be separate because it pins numpy below 2."""


class Worker:
    """A process that runs one of CompressAI's models while this process lives.

    Attributes:
        about: version, torch, trained, qualities.
        stages: seconds by stage of the last request, by the worker's own clock.

    Raises:
        UnavailableError: the process does not start.
    """

    def __init__(self, name: str, device: str, threads: int) -> None:
        command = [os.environ.get(PYTHON, sys.executable), str(WORKER), name, device, str(threads)]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise UnavailableError(f"compressai's worker cannot be started: {error}") from error
        atexit.register(process.kill)
        self._requests, self._answers = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        self.stages: dict[str, float] = {}
        try:
            self.about, _ = self._answer()
        except EOFError as error:
            raise UnavailableError(f"compressai's worker does not start: {' '.join(command)}") from error

    def ask(self, data: bytes, **request: Any) -> bytes:
        """Sends a request with its bytes, and waits for the bytes of the answer.

        Raises:
            EOFError: the worker died, perhaps for lack of memory.
            RuntimeError: the worker reported an error, with this message.
        """
        self._requests.write(json.dumps({**request, "bytes": len(data)}).encode() + b"\n" + data)
        self._requests.flush()
        head, body = self._answer()
        if "error" in head:
            raise RuntimeError(head["error"])
        self.stages = head["stages"]
        return body

    def _answer(self) -> tuple[dict[str, Any], bytes]:
        line = self._answers.readline()
        if not line:
            raise EOFError("compressai's worker has died")
        head = json.loads(line)
        return head, self._answers.read(head["bytes"])


def _compressai(name: str, device: str) -> Codec:
    """A model of CompressAI's zoo: network and entropy coder. The pipe adds about 1 ms per megapixel."""
    import torch

    if PYTHON not in os.environ and find_spec("compressai") is None:
        raise UnavailableError(f"compressai is not installed: install it, or set {PYTHON} to a Python that has it")
    threads = torch.get_num_threads()
    worker = Worker(name, device, threads)

    def encode(image: Image.Image, quality: int) -> bytes:
        return worker.ask(image.tobytes(), action="encode", width=image.width, height=image.height, quality=quality)

    def decode(data: bytes) -> Image.Image:
        size = int.from_bytes(data[0:2], "little"), int.from_bytes(data[2:4], "little")
        return Image.frombytes("RGB", size, worker.ask(data, action="decode"))

    trained = worker.about["trained"]
    return Codec(
        name=name,
        version=f"compressai {worker.about['version']}, torch {worker.about['torch']}",
        settings={"device": device, "weights": "published" if trained else "untrained: timing only"},
        qualities=tuple(worker.about["qualities"]),
        encode=encode,
        decode=decode,
        timing_only=not trained,
        threads=threads,
        stages=lambda: worker.stages,
    )


def _jpeg_cuda(device: str) -> Codec:
    """JPEG on the GPU, one picture at a time, transfers to and from the GPU included."""
    if device != "cuda":
        raise UnavailableError("JPEG on the GPU needs --device cuda")
    backend = gpu_jpeg.open_backend()
    import torch

    def encode(image: Image.Image, quality: int) -> bytes:
        samples = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return backend.encode([samples.to(backend.device)], quality)[0]

    def decode(data: bytes) -> Image.Image:
        return Image.fromarray(backend.decode([data])[0].permute(1, 2, 0).cpu().numpy())

    settings = {"device": device, "library": "nvJPEG"}
    return Codec("jpeg-cuda", backend.version, settings, (10, 25, 40, 50, 60, 75, 85, 90, 95), encode, decode)


OPENERS: dict[str, Callable[[str], Codec]] = {
    "jpeg-cuda": _jpeg_cuda,
    "bmshj2018-hyperprior": lambda device: _compressai("bmshj2018-hyperprior", device),
    "mbt2018-mean": lambda device: _compressai("mbt2018-mean", device),
}
