"""The deblocking filter: what it smooths, what it leaves, and how far it reaches."""

import pytest
import torch
from torch import Tensor

from vaecodec.model.architecture import CUTS_IN_ALL, REACH_PX
from vaecodec.model.torch_engine.network import Deblocking, border_ratio, fitting_cut

CHANNELS, BLOCK_PX, SEGMENT_PX = 8, 16, 4


def _filter(bound: float, ramp: float = 0.5) -> Deblocking:
    """A filter with the same bound on all borders, as a picture value, and full strength next to them."""
    deblocking = Deblocking(CHANNELS, BLOCK_PX, SEGMENT_PX).requires_grad_(False)
    deblocking.bound.bias.fill_(float(torch.tensor(bound).expm1().log()) / 2)  # two latents tell, then softplus
    deblocking.ramp.zero_()[0] = ramp
    return deblocking


def _apply(deblocking: Deblocking, pictures: Tensor, share: float = 1.0) -> Tensor:
    height, width = pictures.shape[2] // BLOCK_PX, pictures.shape[3] // BLOCK_PX
    features = torch.zeros(len(pictures), CHANNELS, height, width)
    return deblocking(pictures.clone(), features, torch.full((len(pictures),), share))


def _blocks(difference: float) -> Tensor:
    """Two by two blocks of one colour each [1, 3, 32, 32], apart by multiples of a difference."""
    corner = torch.tensor([[0.0, 1.0], [2.0, 3.0]]) * difference
    return corner.repeat_interleave(BLOCK_PX, 0).repeat_interleave(BLOCK_PX, 1).expand(1, 3, -1, -1).clone()


def test_small_steps_vanish() -> None:
    """At full strength both sides of a step below the bound meet in the middle, along rows and along columns."""
    smooth = _apply(_filter(0.5), _blocks(0.02))
    assert smooth.diff(dim=3)[..., BLOCK_PX - 1].abs().max() < 0.001
    assert smooth.diff(dim=2)[..., BLOCK_PX - 1, :].abs().max() < 0.001


def test_edges_stay() -> None:
    """A step changes by the bound at most, however large it is."""
    edges = _blocks(10.0)
    assert (_apply(_filter(0.01), edges) - edges).abs().max() <= 0.01 + 1e-6


def test_a_bound_of_zero_changes_nothing() -> None:
    """Where softplus runs out to zero, flat places and edges stay as they are: no division of zero by zero."""
    deblocking = _filter(0.5)
    deblocking.bound.bias.fill_(-200)
    for pictures in (torch.full((1, 3, 32, 32), 0.5), _blocks(10.0)):
        assert torch.equal(_apply(deblocking, pictures), pictures)


def test_slopes_stay() -> None:
    """A picture that rises evenly has no excess at borders, if half of the two neighbouring rises is the slope."""
    deblocking = _filter(0.5)
    deblocking.slope.fill_(0.25)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 32, 64).clone()
    assert torch.allclose(_apply(deblocking, ramp), ramp, atol=1e-6)


def test_reach() -> None:
    """Pixels farther from every border than the filter's reach do not change."""
    deblocking = _filter(0.5)
    deblocking.ramp.fill_(0.5)
    noise = torch.rand(2, 3, 48, 32, generator=torch.Generator().manual_seed(3))
    changed = (_apply(deblocking, noise) != noise).any(0).any(0)
    inner = torch.zeros(48, 32, dtype=torch.bool)
    for rows in (slice(0, 12), slice(20, 28), slice(36, 48)):
        for columns in (slice(0, 12), slice(20, 32)):
            inner[rows, columns] = True
    assert REACH_PX == 4
    assert torch.equal(changed, ~inner)


@pytest.mark.parametrize("side", [16, 32])
def test_features_choose_the_border(side: int) -> None:
    """Each latent tells the bounds of its own four borders: the others stay as they are."""
    deblocking = _filter(1e-4)
    deblocking.bound.weight.normal_(generator=torch.Generator().manual_seed(1)).abs_()
    pictures = torch.rand(1, 3, side, 48, generator=torch.Generator().manual_seed(2))
    features = torch.zeros(1, CHANNELS, side // BLOCK_PX, 3)
    features[..., 0] = 5.0
    change = (deblocking(pictures.clone(), features, torch.ones(len(pictures))) - pictures).abs()
    assert change[..., :20].max() > 0.01
    assert change[..., 28:36].max() < 0.001


def test_a_share_of_the_smoothing_changes_as_much_less() -> None:
    """Half the share is half the change; none is none."""
    deblocking, columns = _filter(0.5), _blocks(0.1)[:, :, :1].expand(-1, -1, BLOCK_PX, -1)
    change = _apply(deblocking, columns) - columns
    assert change.abs().max() > 0.01
    torch.testing.assert_close(_apply(deblocking, columns, 0.5) - columns, change / 2)
    assert torch.equal(_apply(deblocking, columns, 0.0), columns)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (32, 160), (40, 100)])
@pytest.mark.parametrize("growth", [1.02, 1.1, 1.25])
def test_the_cut_that_fits_lets_borders_grow_as_wanted(growth: float, height: int, width: int) -> None:
    """Of noise with steps, smoothed too much: within a 64th of what the whole cut would do."""
    generator = torch.Generator().manual_seed(height)
    rows, columns = -(-height // BLOCK_PX), -(-width // BLOCK_PX)
    means = torch.rand(1, 3, rows, columns, generator=generator)
    pictures = means.repeat_interleave(BLOCK_PX, 2).repeat_interleave(BLOCK_PX, 3)
    pictures = pictures + 0.1 * torch.rand(pictures.shape, generator=generator)
    deblocking = _filter(2.0)

    def ratio(share: float) -> float:
        return border_ratio(_apply(deblocking, pictures, share)[0, :, :height, :width], BLOCK_PX)

    seen = (0, slice(None), slice(height), slice(width))
    after = _apply(deblocking, pictures)
    cut = fitting_cut(pictures[seen], after[seen], growth, BLOCK_PX)
    assert 1 <= cut <= CUTS_IN_ALL
    tolerance = 1.5 * max(ratio(1 - (cut + 1) / CUTS_IN_ALL) - ratio(1 - cut / CUTS_IN_ALL), 0.005)
    assert ratio(1 - cut / CUTS_IN_ALL) == pytest.approx(growth * ratio(1), abs=tolerance)


def test_the_border_ratio_of_what_has_no_borders_is_one() -> None:
    """Noise, one colour, a picture smaller than a block; and more than one where blocks differ."""
    noise = torch.rand(3, 160, 160, generator=torch.Generator().manual_seed(4))
    assert border_ratio(noise, BLOCK_PX) == pytest.approx(1, abs=0.05)
    assert border_ratio(torch.full((3, 64, 64), 0.3), BLOCK_PX) == border_ratio(noise[:, :16, :16], BLOCK_PX) == 1
    assert border_ratio(_blocks(0.5)[0] + 0.01 * noise[:, :32, :32], BLOCK_PX) > 10
