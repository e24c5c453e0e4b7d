"""Selects the engine, gives the reason, and loads weights into it."""

import functools
import importlib.util
import os
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from vaecodec.errors import VaecImageError, VaecModelError
from vaecodec.model import weights as weights_files
from vaecodec.model.architecture import BUILT_IN
from vaecodec.model.engine import Engine
from vaecodec.model.weights import Weights
from vaecodec.runtime import forks

VARIABLE = "VAECODEC_ENGINE"
KINDS = ("auto", "native", "torch")


class Choice(NamedTuple):
    """An engine, "native" or "torch", and the reason for its selection."""

    kind: str
    reason: str


def check(kind: str) -> str:
    """Returns the kind of engine unchanged.

    Raises:
        VaecImageError: (ARGUMENT) there is no such kind.
    """
    if kind not in KINDS:
        raise VaecImageError(f"engine is {kind!r}, must be one of {', '.join(KINDS)}", code="ARGUMENT")
    return kind


def check_tune(tune: str) -> str:
    """Returns the tune unchanged.

    Raises:
        VaecImageError: (ARGUMENT) there are no built-in weights of this tune.
    """
    if tune not in BUILT_IN:
        raise VaecImageError(f"tune is {tune!r}, must be one of {', '.join(BUILT_IN)}", code="ARGUMENT")
    return tune


def select(kind: str, device: str) -> Choice:
    """Selects the engine.

    By default that is the native engine on CPUs, if it is installed: it starts in a tenth of the time. A GPU is
    considered only if the process has loaded torch, because loading torch takes seconds.

    Args:
        kind: one of `KINDS`.
        device: "auto" or a torch device.

    Raises:
        VaecModelError: (NATIVE_MISSING, NATIVE_VERSION, NATIVE_LEVEL) the native engine was requested and cannot be
            used; (DEVICE) it was requested for another device; (ENGINE) the environment names an unknown engine.
    """
    from vaecodec.model.native_engine.binding import library  # deferred: it loads on first use

    reason = "it was requested"
    if kind == "auto" and (named := os.environ.get(VARIABLE)):
        if named not in KINDS:
            raise VaecModelError(f"{VARIABLE} is {named!r}, must be one of {', '.join(KINDS)}", code="ENGINE")
        kind, reason = named, f"{VARIABLE} says so"
    if kind == "native":
        if device not in ("auto", "cpu"):
            raise VaecModelError(f"the native engine computes on the CPU, not on {device!r}", code="DEVICE")
        library()
    if kind != "auto":
        return Choice(kind, reason)
    if device not in ("auto", "cpu"):
        return Choice("torch", f"the device is {device}")
    if device == "auto" and _has_cuda():
        return Choice("torch", "torch is loaded and has a GPU")
    try:
        library()
    except VaecModelError as error:
        return Choice("torch", str(error))
    return Choice("native", "the device is a CPU")


def has_torch() -> bool:
    """Whether torch is installed; does not load it."""
    return importlib.util.find_spec("torch") is not None


def load(weights: Weights, device: str, kind: str) -> Engine:
    """Loads weights into the engine that `select` selected.

    Raises:
        VaecModelError: (IMPORT) torch is needed and not installed; or as the engines.
    """
    if kind == "native":
        from vaecodec.model.native_engine import NativeEngine

        return NativeEngine(weights)
    try:
        from vaecodec.model.torch_engine import engine
    except ImportError as error:
        raise VaecModelError(
            f"this needs torch: pip install 'vaecodec[torch]' ({error}). With the native engine, pictures on CPUs do "
            "not need torch: run `vaecodec doctor` to see whether it is installed",
            code="IMPORT",
        ) from error
    engine.settle_after_fork()
    return engine.load(weights, device)


def cached(model: str | None, tune: str, device: str, kind: str) -> Engine:
    """The engine with the weights of a file, or the built-in weights of a tune, loaded once; thread-safe.

    Raises:
        VaecModelError: as `select`, `load` and `weights.load`.
    """
    with _loading:
        engine = _cached(model, tune, device, _chosen(kind, device, os.environ.get(VARIABLE), "torch" in sys.modules))
    if forks.forked_thread == threading.get_ident():  # one of several workers, probably
        forks.forked_thread = None
        engine.use_one_thread()
    return engine


@functools.lru_cache(maxsize=16)
def _chosen(kind: str, device: str, named: str | None, has_torch: bool) -> str:
    """Cached by everything that the selection depends on."""
    return select(kind, device).kind


@functools.lru_cache(maxsize=8)
def _cached(model: str | None, tune: str, device: str, kind: str) -> Engine:
    return load(weights_files.load(None if model is None else Path(model), tune), device, kind)


_loading = threading.Lock()


def _renew_lock() -> None:
    """Replaces the lock after a fork: a thread that held it does not exist in the child, and would never release it."""
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _has_cuda() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available()
