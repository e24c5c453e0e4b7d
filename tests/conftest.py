"""Fixtures shared by all tests: a tiny model made by the real export path, the shipped model, and pictures."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# One thread a process, also of those that tests start: threads that wait for each other on a busy machine only spin.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from filelock import FileLock  # torch itself needs it
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from vaecodec import Codec
from vaecodec.model import engines
from vaecodec.model.architecture import Architecture
from vaecodec.model.native_engine.binding import is_available

torch.set_num_threads(1)  # where something has loaded torch before; tests that need more say so

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("default")

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background is born deaf to it

TINY = Architecture(
    latent_channels=32, hyper_channels=8, analysis_channels=40, analysis_blocks=2, synthesis_channels=16,
    synthesis_blocks=2, render_channels=48, condition_channels=4, prior_channels=8, scale_channels=8, quality_anchors=2,
)  # fmt: skip

SHARED = Path(__file__).parents[2] / "shared" / "data"


def picture(height: int, width: int, channels: int = 3, *, seed: int = 0) -> NDArray[np.uint8]:
    """A picture [height, width, channels] with gradients, soft shapes, an edge and a little texture; no torch RNG."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 64.0
    planes = []
    for _ in range(channels):
        a, b, c, d = rng.uniform(0.3, 2.0, 4)
        plane = 128 + 60 * np.sin(a * x + 2 * b) * np.cos(c * y + d) + 25 * (x + y > a + b + 1)
        planes.append(plane + rng.normal(0, 2, (height, width)))
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test with each of the engines that it is marked with, a slow one with the first only."""
    marker = metafunc.definition.get_closest_marker("engines")
    if marker:
        kinds = [kind for kind in marker.args if kind == "torch" or is_available()]
        is_slow = metafunc.definition.get_closest_marker("slow")
        metafunc.parametrize("_computing", kinds[:1] if is_slow else kinds, indirect=True)


@pytest.fixture(autouse=True)
def _computing(request: pytest.FixtureRequest) -> Iterator[None]:
    """What codecs that leave the choice to the environment compute with; `tiny` and `shipped` do."""
    with pytest.MonkeyPatch.context() as patched:
        if hasattr(request, "param"):
            patched.setenv(engines.VARIABLE, request.param)
        yield


def make_tiny_weights(folder: Path) -> Path:
    """A weights file of a few channels, from the KLT of synthetic pictures, exported as a real one is."""
    from vaecodec.training.data import Pictures
    from vaecodec.training.export import Calibration, export
    from vaecodec.training.klt import start_from_klt
    from vaecodec.training.objective import TrainingModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TrainingModel(TINY)
    pictures = Pictures.from_arrays([picture(128, 128, seed=n) for n in range(12)])
    start_from_klt(model, torch.stack([crop.permute(2, 0, 1) for crop in pictures.pictures]).float() / 255)
    path = folder / "tiny.safetensors"
    export(model, pictures, path, Calibration(crops=8, hyper_crops=8, qualities=4, patch_px=128, skip_below=1e-3))
    return path


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `make_tiny_weights`, made once for all workers of a run."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return make_tiny_weights(tmp_path_factory.mktemp("weights"))
    folder = tmp_path_factory.getbasetemp().parent
    with FileLock(folder / "weights.lock"):
        if not (folder / "weights").exists():
            make_tiny_weights(tmp_path_factory.mktemp("weights")).parent.rename(folder / "weights")
    return folder / "weights" / "tiny.safetensors"


@pytest.fixture(scope="session")
def tiny(tiny_weights: Path) -> Codec:
    """A codec with the tiny weights on the CPU."""
    return Codec(tiny_weights, "cpu")


@pytest.fixture(scope="session")
def shipped() -> Codec:
    """The codec that users get, on the CPU."""
    return Codec(None, "cpu")


@pytest.fixture(scope="session")
def kodak() -> list[Path]:
    """The Kodak images, where the folder of test pictures lies beside the checkout."""
    folder = SHARED / "test" / "kodak"
    if not folder.is_dir():
        pytest.skip(f"no test pictures in {folder.name}/: the folder beside the checkout is absent")
    return sorted(folder.glob("*.png"))
