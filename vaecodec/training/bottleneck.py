"""compressai's density of the hyper-latents, and the import of compressai where torchvision lacks operators."""

import importlib
import sys

import torch
from torch import Tensor, nn

from vaecodec.training.errors import TrainingError

OPERATORS = "nms", "qnms"
_declared: list[torch.library.Library] = []  # declarations live as long as their library


def import_compressai() -> None:
    """Imports compressai, even with the small CPU build of torch.

    The torchvision on PyPI is built for torch with CUDA. With another build, its own library does not load, and its
    import fails because operators are missing that compressai never calls. Only then, they are declared here.

    Raises:
        ImportError: compressai is not installed, or its import fails for another reason.
    """
    try:
        _import_torchvision()
        importlib.import_module("compressai")
    except (ImportError, RuntimeError) as error:
        raise ImportError(f"pip install 'vaecodec[compressai]', which wants numpy < 2 ({error})") from error


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    library = torch.library.Library("torchvision", "DEF")
    for operator in OPERATORS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    importlib.import_module("torchvision")


class Bottleneck(nn.Module):
    """Density of every hyper-latent channel: compressai's `EntropyBottleneck`. For training; files use tables.

    Its quantiles only delimit compressai's own tables. They have a separate loss, which affects nothing else, and are
    here for checkpoints that compressai reads.

    Reference: Ballé et al., "Variational Image Compression with a Scale Hyperprior" (2018), appendix 6.1.

    Raises:
        TrainingError: (IMPORT) compressai is not installed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        try:
            import_compressai()
        except ImportError as error:
            raise TrainingError(f"the hyper-prior bottleneck is compressai's: {error}", code="IMPORT") from error
        from compressai.entropy_models import EntropyBottleneck

        self.density = EntropyBottleneck(channels)

    def probability(self, z: Tensor) -> Tensor:
        """Mass of the unit interval around z [B, Z, h, w], same shape."""
        by_channel = z.transpose(0, 1)
        with torch.autocast(z.device.type, enabled=False):  # differences of sigmoids need full precision
            # Not `forward`, which rounds to integers plus a median: ours are integers, as in files.
            mass, _, _ = self.density._likelihood(by_channel.float().reshape(z.shape[1], 1, -1))
        return self.density.likelihood_lower_bound(mass).view(by_channel.shape).transpose(0, 1)

    def bits(self, z: Tensor) -> Tensor:
        """Bits of z, same shape."""
        return -torch.log2(self.probability(z))

    def auxiliary_loss(self) -> Tensor:
        """A scalar loss that moves the quantiles to the tails and the median of the density, and nothing else."""
        return self.density.loss()
