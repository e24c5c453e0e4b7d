"""What one training run is: every choice in one frozen record, and the schedules that follow from it."""

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Recipe:
    """One run. Progress (0..1) is elapsed minutes over `minutes`; the schedules depend on nothing else."""

    data: Path
    out: Path
    init: str = "default"
    validation: Path | None = None
    minutes: float = 60.0
    batch: int = 8
    patch_px: int = 128
    final_patch_px: int = 256
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    clip_norm: float = 1.0
    ema_decay: float = 0.9995
    checkpoint_minutes: float = 4.0
    validation_minutes: float = 15.0
    max_bad_steps: int = 100
    seed: int = 1

    def patch_at(self, progress: float) -> int:
        """Side of the crops: large ones in the last quarter, where the hyperprior needs its real surroundings."""
        return self.final_patch_px if progress >= 0.75 else self.patch_px

    def learning_rate_at(self, progress: float, step: int) -> float:
        """Linear warm-up, constant, then a cosine to 2 % over the last third."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        decay = max(0.0, min(1.0, (progress - 2 / 3) * 3))
        return self.learning_rate * warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * decay)))
