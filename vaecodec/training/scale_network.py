"""The scale network in float: trained, and then exported as integers."""

from torch import Tensor, nn
from torch.nn import functional as F

from vaecodec.model.architecture import Architecture


class ScaleNetwork(nn.Module):
    """Four convolutions with ReLU and pixel shuffles between them, which integers can compute exactly."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.scale_channels
        self.layers = nn.ModuleList([
            nn.Conv2d(arch.hyper_channels, width, 3, padding=1),
            nn.Conv2d(width, 2 * width, 1),
            nn.Conv2d(width // 2, width, 3, padding=1),
            nn.Conv2d(width, 4 * arch.latent_channels, 1),
        ])  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        """Log scales [B, M, 4 h, 4 w], in units of y, of dequantized hyper-latents z [B, Z, h, w]."""
        first, second, third, last = self.layers
        h = F.relu(first(z))
        h = F.relu(F.pixel_shuffle(second(h), 2))
        h = F.relu(third(h))
        return F.pixel_shuffle(last(h), 2)
