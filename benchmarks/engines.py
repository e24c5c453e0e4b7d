"""Compares engines on the synthesis transform: our native core, torch and general-purpose runtimes.

Measures installed runtimes (pip install onnx onnxscript onnxruntime openvino MNN) in turn, on the same latents. The
synthesis is three quarters of a decode's operations, and the only part that a runtime could take over unchanged.
ncnn's converter, pnnx, does not take it: it knows no `addcmul`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import results
from vaecodec import Codec
from vaecodec.model import weights
from vaecodec.model.native_engine import NativeEngine

ROWS, COLUMNS, QUALITY = 32, 48, 75  # latents of a picture of 768 x 512
PACKAGES = ("torch", "onnxruntime", "openvino", "MNN")
Run = Callable[[], object]


class Synthesis(nn.Module):
    """Latents [1, M, h, w] to a picture [1, 3, 16 h, 16 w] at one quality, for exporters."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae
        self.level = torch.tensor([(QUALITY - 1) / 99])

    def forward(self, y: Tensor) -> Tensor:
        """Pictures before deblocking, which exporters cannot trace because it writes into its input."""
        pictures, _ = self.vae.synthesis.before_deblocking(y, self.level)  # type: ignore[operator,union-attr]
        return pictures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the installed engines and write the table; returns 0."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch_engine: Any = Codec(None, "cpu", engine="torch").engine
    native = NativeEngine(weights.load(), options.threads)
    y = np.random.default_rng(0).normal(0, 1, (1, native.arch.latent_channels, ROWS, COLUMNS)).astype(np.float32)
    model = Synthesis(torch_engine.vae).eval()
    runs: dict[str, Run] = {
        "native (with deblocking)": lambda: native.synthesize(y, [QUALITY], [0]),
        "torch": lambda: _no_grad(model, torch.from_numpy(y)),
    }
    with tempfile.TemporaryDirectory() as folder:
        runs |= _runtimes(Path(folder, "synthesis.onnx"), model, y, options.threads)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        for _ in range(options.repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    report = {
        "machine": results.machine(options.threads), "commit": results.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "picture": [16 * COLUMNS, 16 * ROWS],
        "median_ms": {name: round(1000 * statistics.median(found), 1) for name, found in seconds.items()},
        "least_ms": {name: round(1000 * min(found), 1) for name, found in seconds.items()},
        "import_s": {name: import_s(name) for name in PACKAGES if _is_installed(name)},
        "installed_mb": {name: _installed_mb(name) for name in PACKAGES if _is_installed(name)}
        | {"native": round((Path(native_file()).stat().st_size) / 1e6, 1)},
    }  # fmt: skip
    text = json.dumps(report, indent=1) + "\n"
    print(text, end="")
    results.write_atomically(options.out, text)
    return 0


def native_file() -> str:
    """The compiled library."""
    from vaecodec.model.native_engine.binding import library_path

    return str(library_path())


def import_s(name: str) -> float:
    """Seconds that importing a package takes in a fresh process, without the process's start."""
    found = []
    for code in (f"import {name}", "pass"):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        found.append(time.perf_counter() - start)
    return round(found[0] - found[1], 2)


def _runtimes(path: Path, model: nn.Module, y: NDArray[np.float32], threads: int) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    if not _is_installed("onnx"):
        return runs
    with torch.no_grad():
        torch.onnx.export(model, (torch.from_numpy(y),), str(path), input_names=["y"], dynamo=True, verbose=False)
    if _is_installed("onnxruntime"):
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        runs["onnxruntime"] = lambda: session.run(None, {"y": y})
    if _is_installed("openvino"):
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        runs["openvino"] = lambda: compiled(y)
    if _is_installed("MNN"):
        runs["MNN"] = _mnn(path, y, threads)
    return runs


def _mnn(path: Path, y: NDArray[np.float32], threads: int) -> Run:
    """Float32, as the others; its half precision is for processors that compute in it."""
    import MNN
    from MNN.tools import mnnconvert

    converted = path.with_suffix(".mnn")
    mnnconvert.convert(["mnnconvert", "-f", "ONNX", "--modelFile", str(path), "--MNNModel", str(converted)])
    settings = {"backend": "CPU", "precision": "high", "numThread": threads}
    runtime = MNN.nn.create_runtime_manager((settings,))
    network = MNN.nn.load_module_from_file(str(converted), ["y"], [], runtime_manager=runtime)
    shaped = MNN.expr.const(y, y.shape, MNN.expr.NCHW)
    return lambda: network.forward([shaped])[0].read()


@torch.inference_mode()
def _no_grad(model: nn.Module, y: Tensor) -> Tensor:
    found: Tensor = model(y)
    return found


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _installed_mb(name: str) -> float:
    files = distribution(name).files or []
    return round(
        sum(Path(str(file.locate())).stat().st_size for file in files if Path(str(file.locate())).is_file()) / 1e6, 1
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of every runtime")
    parser.add_argument("--repeats", type=int, default=15, help="of each")
    parser.add_argument("--out", type=Path, default=Path("out", "benchmark", "engines.json"), help="result")
    return parser


if __name__ == "__main__":
    sys.exit(main())
