"""An engine without torch that does what the oracle can: choose table indexes, in int64. Enough to read all symbols."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from exactness import oracle
from vaecodec.entropy import coder
from vaecodec.entropy.tables import Pass, Tables
from vaecodec.model import coding
from vaecodec.model.coding import hyper_size
from vaecodec.model.weights import Weights


class NumpyEngine:
    """The integer half of a network: see `model.engine.Engine`. Whatever is float in it is not there."""

    is_cpu = True
    at_once_px = 1 << 19
    joined_px = 0
    pictures_at_once = 1
    helpers = 0

    def __init__(self, stored: Weights) -> None:
        self.arch, self.model_id, self.scales = stored.arch, stored.model_id, stored.scales
        self.restores = stored.restores
        self.hyper_tables, self.hyper_indexes = stored.hyper_tables, stored.hyper_indexes
        self.latent_tables = stored.latent_tables

    def use_one_thread(self) -> None:
        """It has no other."""

    def self_test(self) -> None:
        """Int64 is exact everywhere."""

    @staticmethod
    def reader(payload: bytes) -> coder.Decoder:
        """Reads the symbols of a payload."""
        return coder.Decoder(payload)

    @staticmethod
    def write(passes: Sequence[Pass]) -> bytes:
        """The payload of symbols."""
        return coder.encode(passes)

    @staticmethod
    def rdoq(residual: NDArray[np.float32], indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.int32]:
        """Symbols of residuals."""
        return coding.rdoq(residual, indexes, tables)

    def table_indexes(
        self, z: Sequence[NDArray[np.int16]], rows: int, columns: int, qualities: Sequence[int],
        channels: int | None = None,
    ) -> NDArray[np.uint8]:  # fmt: skip
        """Table indexes [B, rows columns, C] of tiles with hyper-latents z [h' w', Z] each."""
        found = []
        for each, quality in zip(z, qualities, strict=True):
            grid = each.astype(np.int64).reshape(1, *hyper_size(rows, columns), -1).transpose(0, 3, 1, 2)
            (indexes,) = oracle.table_indexes(self.scales, grid, quality)
            found.append(indexes[:channels, :rows, :columns].transpose(1, 2, 0).reshape(rows * columns, -1))
        return np.stack(found).astype(np.uint8)

    def _missing(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError

    analyze = hyper_analyze = predict = synthesize = synthesize_like = preview = _missing
    zeros = concat = grey = to_numpy = _missing
