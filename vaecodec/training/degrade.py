"""Degrades training pictures, for networks that learn to restore the originals."""

import re
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vaecodec.training.errors import TrainingError

LEVELS = 255
_NOISE = re.compile(r"noise:(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Noise:
    """Gaussian noise, with a standard deviation in levels of 0..255 that is drawn uniformly for each picture.

    Attributes:
        low: at least 0.
        high: at least low, at most 255.
    """

    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a text such as noise:5-25, or noise:15 for a fixed deviation.

        Raises:
            TrainingError: (RECIPE) the text is malformed, or a value is out of range.
        """
        match = _NOISE.fullmatch(text)
        low, high = (float(match[1]), float(match[2] or match[1])) if match else (1.0, 0.0)
        if not low <= high <= LEVELS:
            raise TrainingError(
                f"degrade is {text!r}, must be noise:LOW-HIGH with 0 <= LOW <= HIGH <= {LEVELS}", code="RECIPE"
            )
        return cls(low, high)

    def apply(self, x: Tensor) -> Tensor:
        """Adds noise to pictures [B, 3, H, W] in 0..1; the result is clipped and rounded to 8 bits, as in files."""
        deviation = torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(self.low, self.high) / LEVELS
        return ((x + deviation * torch.randn_like(x)).clamp(0, 1) * LEVELS).round() / LEVELS
