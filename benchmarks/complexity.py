"""Counts multiply-accumulates per pixel and parameters of the shipped network, part by part, as JSON."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from vaecodec import Codec

SIDE_PX = 256


def macs(module: nn.Module, call: object) -> int:
    """Multiply-accumulates of all convolutions that run while `call()` runs."""
    total = 0

    def count(layer: nn.Conv2d, _: object, out: torch.Tensor) -> None:
        nonlocal total
        total += out.shape[2] * out.shape[3] * layer.weight.numel()

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    call()
    for hook in hooks:
        hook.remove()
    return total


def main() -> None:
    """Print and, with a path as argument, record the table."""
    network = Codec(None, "cpu").network
    vae, level = network.vae, torch.tensor([0.5])
    grid = SIDE_PX // 16
    y = torch.zeros(1, vae.arch.latent_channels, grid, grid)
    z = torch.zeros(1, vae.arch.hyper_channels, grid // 4, grid // 4)
    features = torch.zeros(1, vae.arch.prior_channels, grid, grid)
    x = torch.zeros(1, 3, SIDE_PX, SIDE_PX)
    parts = {
        "analysis": macs(vae.analysis, lambda: vae.analysis(x, level)),
        "hyper_analysis": macs(vae.hyper_analysis, lambda: vae.hyper_analysis(y)),
        "hyper_synthesis": macs(vae.hyper_synthesis, lambda: vae.hyper_synthesis(z)),
        "context": macs(vae.context, lambda: vae.context(y, features)),
        "synthesis": macs(vae.synthesis, lambda: vae.synthesis(y, level)),
    }
    pixels = (grid // 4) ** 2, (grid // 4) ** 2, (grid // 2) ** 2, (grid // 2) ** 2
    layers = network.scales.stored.layers
    parts["scale_network"] = sum(layer.weight.numel() * n for layer, n in zip(layers, pixels, strict=True))
    table = {name: round(count / SIDE_PX**2 / 1000, 3) for name, count in parts.items()}
    decoder = ("hyper_synthesis", "context", "synthesis", "scale_network")
    result = {
        "kmac_per_pixel": table,
        "decode_kmac_per_pixel": round(sum(table[name] for name in decoder), 3),
        "encode_kmac_per_pixel": round(sum(table.values()), 3),
        "parameters": sum(p.numel() for p in vae.parameters()) + sum(layer.weight.numel() for layer in layers),
    }
    print(json.dumps(result, indent=1))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
