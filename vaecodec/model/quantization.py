"""Rate-distortion optimized quantization: symbols nearer to zero where the bits that this saves are worth it.

Reference: Karczewicz, Ye and Chong, "Rate Distortion Optimized Quantization", ITU-T SG16/Q6 VCEG-AH21 (2008). Only
encoders do it; no decoder can tell.
"""

import torch
from torch import Tensor

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
