"""Devices: which there is, threads in forked processes, and pictures that stay where they are made."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecodec.errors import VaecModelError
from vaecodec.runtime import forks


def settle_after_fork() -> None:
    """Leaves torch with one thread in a process that was forked while torch was loaded: it would wait for the parent's.

    To be called before torch computes anything for this package. Torch's DataLoader does the same to its workers.
    """
    if forks.pop_notice():
        torch.set_num_threads(1)


class TorchArrays:
    """Pictures as tensors that stay on a device: see `tiling.decode.Arrays`."""

    def __init__(self, device: str) -> None:
        settle_after_fork()
        self._device = pick_device(device)

    def full(self, shape: tuple[int, int, int], value: int) -> Tensor:
        """A picture of one value."""
        return torch.full(shape, value, dtype=torch.uint8, device=self._device)

    def take(self, samples: NDArray[np.uint8] | Tensor, engine: object = None) -> Tensor:
        """Samples from wherever they are."""
        if isinstance(samples, Tensor):
            return samples.to(self._device)
        return torch.tensor(samples, device=self._device)  # a copy: some samples may not be written to

    @staticmethod
    def by_channels(picture: Tensor) -> Tensor:
        """A picture [H, W, C] as [C, H, W]."""
        return picture.permute(2, 0, 1).contiguous()


def pick_device(name: str) -> torch.device:
    """The torch device of a name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        VaecModelError: (DEVICE) there is no such device, or it has no float64, which exact integers need.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:  # torch built without CUDA asserts
        raise VaecModelError(f"device {name!r} cannot be used: {error}", code="DEVICE") from error
    return device
