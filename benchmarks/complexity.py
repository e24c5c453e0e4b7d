"""Counts multiply-accumulates per pixel and parameters of the shipped network, part by part, as JSON."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the modules here (codecs, datasets) must not shadow those of other packages
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from benchmarks.results import write_atomically
from vaecodec import Codec
from vaecodec.model.torch_engine.network import Onto

SIDE_PX = 256


def macs(module: nn.Module, call: Callable[[], object]) -> int:
    """Multiply-accumulates of all convolutions that run while `call()` runs."""
    total = 0

    def count(layer: nn.Conv2d | Onto, _: object, out: torch.Tensor) -> None:
        nonlocal total
        total += out.shape[2] * out.shape[3] * layer.weight.numel()

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, nn.Conv2d | Onto)]
    call()
    for hook in hooks:
        hook.remove()
    return total


@torch.inference_mode()
def count() -> dict[str, Any]:
    """Thousands of multiply-accumulates per pixel by part, their sums for decoder and encoder, and parameters."""
    engine = Codec(None, "cpu", engine="torch").engine
    vae, level = engine.vae, torch.tensor([0.5])
    grid = SIDE_PX // 16
    y = torch.zeros(1, vae.arch.latent_channels, grid, grid)
    z = torch.zeros(1, vae.arch.hyper_channels, grid // 4, grid // 4)
    features = torch.zeros(1, vae.arch.prior_channels, grid, grid)
    x = torch.zeros(1, 3, SIDE_PX, SIDE_PX)
    parts = {
        "analysis": macs(vae.analysis, lambda: vae.analysis(x, level)),
        "hyper_analysis": macs(vae.hyper_analysis, lambda: vae.hyper_analysis(y)),
        "hyper_synthesis": macs(vae.hyper_synthesis, lambda: vae.hyper_synthesis(z)),
        "context": macs(vae.context, lambda: vae.context(y, features, y)),
        "synthesis": macs(vae.synthesis, lambda: vae.synthesis(y, level)),
    }
    pixels = (grid // 4) ** 2, (grid // 4) ** 2, (grid // 2) ** 2, (grid // 2) ** 2
    layers = engine.scales.stored.layers
    parts["scale_network"] = sum(layer.weight.size * n for layer, n in zip(layers, pixels, strict=True))
    table = {name: round(count / SIDE_PX**2 / 1000, 3) for name, count in parts.items()}
    decoder = ("hyper_synthesis", "context", "synthesis", "scale_network")
    return {
        "kmac_per_pixel": table,
        "decode_kmac_per_pixel": round(sum(table[name] for name in decoder), 3),
        "encode_kmac_per_pixel": round(sum(table.values()), 3),
        "parameters": sum(p.numel() for p in vae.parameters()) + sum(layer.weight.size for layer in layers),
    }


def record(path: Path) -> None:
    """Write the table."""
    write_atomically(path, json.dumps(count(), indent=1) + "\n")


if __name__ == "__main__":
    print(json.dumps(count(), indent=1))
