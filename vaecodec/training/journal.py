"""The log of a run: JSON lines, and TensorBoard if it is installed."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor


class Journal:
    """Writes log.jsonl, one object per line, and TensorBoard events to a run's folder; without one, does nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / "log.jsonl" if folder else None
        self._board = _board(folder) if folder else None

    @property
    def shows_pictures(self) -> bool:
        """Whether `pictures` writes anything."""
        return self._board is not None

    def write(self, step: int, elapsed_s: float, **row: object) -> None:
        """Writes one line of the log, and its numbers as scalars."""
        if self._file is None:
            return
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "minutes": round(elapsed_s / 60, 2), **row}) + "\n")
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"train/{name}", value, step)

    def curve(self, step: int, elapsed_s: float, folder: str, curve: list[dict[str, float]]) -> None:
        """Writes the rate-distortion curve of a folder's pictures, as from `validate`."""
        self.write(step, elapsed_s, event="validation", folder=folder, curve=curve)
        if self._board is not None:
            for point in curve:
                for name in ("bpp", "psnr_db", "ssimulacra2"):
                    self._board.add_scalar(f"validation/{folder}/{name}/level_{point['level']:.1f}", point[name], step)

    def pictures(self, step: int, pictures: Tensor) -> None:
        """Writes pictures [N, 3, H, W] in 0..1."""
        if self._board is not None:
            self._board.add_images("reconstructions", pictures, step)

    def close(self) -> None:
        """Flushes and closes the log."""
        if self._board is not None:
            self._board.close()


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra [train] is not installed
        return None
    return SummaryWriter(str(folder))
