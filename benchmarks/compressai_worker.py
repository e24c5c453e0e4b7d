"""Runs a CompressAI model in a separate process, whose Python need not have vaecodec: see peers.py.

Requests and answers are a line of JSON, followed by as many bytes as its "bytes" says, on standard input and output.
"""

import json
import os
import struct
import sys
import time
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import torch
from compressai import __version__, zoo

STRIDE_PX = 64
UNTRAINED_QUALITY = 4  # uses the smaller of the two network sizes, which favours CompressAI in comparisons
HEAD = struct.Struct("<HHBHHI")  # width, height, quality, rows and columns of latents, bytes of the first string


class Models:
    """The models of one name, one per quality, held in memory, with timed entropy coders."""

    def __init__(self, name: str, device: str) -> None:
        self._opener, self.device = zoo.image_models[name], device
        self._ready: dict[int, Any] = {}
        self.coder_s = 0.0
        try:
            self._open(1, pretrained=True)
            self.trained, self.qualities = True, list(range(1, 9))
        except (OSError, RuntimeError):  # no network, or an incomplete download
            self.trained, self.qualities = False, [UNTRAINED_QUALITY]

    def at(self, quality: int) -> Any:
        """The model for a quality, ready to use."""
        if quality not in self._ready:
            self._open(quality, pretrained=self.trained)
        return self._ready[quality]

    def _open(self, quality: int, *, pretrained: bool) -> None:
        torch.manual_seed(0)  # untrained weights are the same in every run
        model = self._opener(quality=quality, metric="mse", pretrained=pretrained).to(self.device).eval()
        model.update(force=True)
        for coder in (model.entropy_bottleneck, model.gaussian_conditional):
            for method in ("compress", "decompress"):
                setattr(coder, method, self._timed(getattr(coder, method)))
        self._ready[quality] = model

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.coder_s += time.perf_counter() - start

        return call


@torch.inference_mode()
def encode(models: Models, request: dict[str, Any], data: bytes) -> bytes:
    """A file of 13 bytes and two strings (CompressAI has no format for them) from RGB samples, row by row."""
    width, height, quality = request["width"], request["height"], request["quality"]
    samples = torch.from_numpy(np.frombuffer(data, np.uint8).reshape(height, width, 3).copy())
    x = samples.to(models.device).permute(2, 0, 1)[None].float() / 255
    x = torch.nn.functional.pad(x, (0, -width % STRIDE_PX, 0, -height % STRIDE_PX), mode="replicate")
    coded = models.at(quality).compress(x)
    first, second = (strings[0] for strings in coded["strings"])
    return HEAD.pack(width, height, quality, *coded["shape"], len(first)) + first + second


@torch.inference_mode()
def decode(models: Models, _: dict[str, Any], data: bytes) -> bytes:
    """RGB samples, row by row."""
    width, height, quality, rows, columns, first = HEAD.unpack_from(data)
    body = data[HEAD.size :]
    strings = [[body[:first]], [body[first:]]]
    x = models.at(quality).decompress(strings, (rows, columns))["x_hat"][0, :, :height, :width]
    return (x * 255).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().cpu().numpy().tobytes()


def serve(models: Models, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answers requests until they end; errors are answers too."""
    actions = {"encode": encode, "decode": decode}
    for line in requests:
        request = json.loads(line)
        data = requests.read(request["bytes"])
        models.coder_s, start = 0.0, time.perf_counter()
        try:
            body, head = actions[request["action"]](models, request, data), {}
        except Exception as error:  # report any error to the other side and continue
            body, head = b"", {"error": f"{type(error).__name__}: {error}"}
        seconds = time.perf_counter() - start
        stages = {"network": seconds - models.coder_s, "entropy coding": models.coder_s}
        _send(answers, {**head, "stages": stages}, body)


def _send(answers: IO[bytes], head: dict[str, Any], body: bytes) -> None:
    answers.write(json.dumps({**head, "bytes": len(body)}).encode() + b"\n" + body)
    answers.flush()


def main() -> None:
    """Serves one model; arguments are its name, a device and the number of threads."""
    name, device, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    torch.set_num_threads(int(threads))
    models = Models(name, device)
    about = {"version": __version__, "torch": torch.__version__, "trained": models.trained}
    _send(answers, {**about, "qualities": models.qualities}, b"")
    serve(models, sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
