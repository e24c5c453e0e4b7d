"""Quantization, rate-distortion optimized: symbols nearer to zero where the bits that this saves are worth it.

Reference: Karczewicz, Ye and Chong, "Rate Distortion Optimized Quantization", ITU-T SG16/Q6 VCEG-AH21 (2008). Only
encoders do it; no decoder can tell.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecodec.entropy.tables import ESCAPE_LIMIT, Tables
from vaecodec.errors import VaecModelError

BITS_PER_DISTORTION = 20.0  # what a squared quantizer step is worth; 6 / ln 2 for uniform quantizers at high rates


def nearer_to_zero(symbols: Tensor) -> Tensor:
    """Symbols, of any shape, one step nearer to zero; 0 stays."""
    return symbols - symbols.sign()


def trade(residual: Tensor, symbols: Tensor, saved_bits: Tensor) -> Tensor:
    """Symbols, or those one nearer to zero where that saves enough.

    Args:
        residual: distance from the mean in quantizer steps, any shape.
        symbols: the integers nearest to it, same shape.
        saved_bits: by how much the symbols nearer to zero are cheaper, same shape.
    """
    # The squared distance to a symbol is smaller by this than to its neighbour on the side of zero.
    distortion = 2 * (residual.abs() - symbols.abs()) + 1
    return torch.where(saved_bits > BITS_PER_DISTORTION * distortion, nearer_to_zero(symbols), symbols)


def nearest(residual: Tensor, rows: NDArray[np.uint8], tables: Tables) -> NDArray[np.int32]:
    """The integers [n] nearest to residuals float32 [n], in quantizer steps, that the tables can code.

    Args:
        residual: on the CPU.
        rows: int [n], of the tables.
        tables: those that will code them.

    Raises:
        VaecModelError: (MODEL_VALUES) a residual is no number.
    """
    if residual.isnan().any():
        raise VaecModelError("the weights turn this picture into latents that are NaN", code="MODEL_VALUES")
    symbols: NDArray[np.int32] = residual.round().clamp_(-ESCAPE_LIMIT, ESCAPE_LIMIT).numpy().astype(np.int32)
    symbols[rows < tables.first_coded_row] = 0
    return symbols


def worthwhile(residual: Tensor, rows: NDArray[np.uint8], tables: Tables) -> NDArray[np.int32]:
    """As `nearest`, but nearer to zero where that saves enough."""
    symbols = nearest(residual, rows, tables)
    others = np.flatnonzero(symbols)  # than 0
    saved_bits = torch.from_numpy(tables.saved_bits(rows[others], symbols[others]))
    symbols[others] = trade(
        residual[torch.from_numpy(others)], torch.from_numpy(symbols[others].astype(np.float32)), saved_bits
    ).numpy()
    return symbols
