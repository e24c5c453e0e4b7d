"""Confidence intervals of BD-rates: a bootstrap over the pictures of a data set."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics import Point, bd_rate, quality_of
from benchmarks.results import Record

RESAMPLES, COVERED, SEED = 200, 0.95, 1
MIN_PICTURES = 5
"""Draws from fewer pictures say nothing about others."""

NOTE = (
    f"In brackets: what it may be with other pictures of the same kind, a {COVERED:.0%} interval from {RESAMPLES} draws"
    " of as many pictures with replacement, the same for both codecs."
)


def interval(anchor: Record, test: Record, metric: str) -> tuple[float, float] | None:
    """A confidence interval, in percent, of the BD-rate of `test` against `anchor` over pictures.

    Pictures are drawn with replacement, both codecs' curves are computed from the same draw, and the interval holds
    the middle of the BD-rates. The draws are the same on every call, so tables do not change from run to run.

    Args:
        anchor: a complete record.
        test: another record of the same pictures.
        metric: one of `metrics.MEASURES`.

    Returns:
        The ends; None with fewer than `MIN_PICTURES` pictures that the metric is defined for, or if the curves do not
        overlap in more than one draw of twenty.
    """
    measured = [_by_picture(record, metric) for record in (anchor, test)]
    count = min(rates.shape[1] for rates, _ in measured)
    if count < MIN_PICTURES:
        return None
    draws = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    curves = [_curves(metric, rates @ draws.T, values @ draws.T) for rates, values in measured]
    found = [rate.percent for pair in zip(*curves, strict=True) if (rate := bd_rate(*pair)).percent is not None]
    if len(found) < COVERED * RESAMPLES:
        return None
    low, high = np.quantile(found, ((1 - COVERED) / 2, (1 + COVERED) / 2))
    return float(low), float(high)


def _by_picture(record: Record, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits per pixel and the metric, both [qualities, pictures], pictures sorted by name."""
    rows = [sorted(at, key=lambda row: str(row["image"])) for at in record.measured(metric).values()]
    rates, values = (np.array([[row[name] for row in at] for at in rows], np.float64) for name in ("bpp", metric))
    return rates, values


def _curves(metric: str, rates: NDArray[np.float64], values: NDArray[np.float64]) -> list[list[Point]]:
    """One curve per draw, from mean rates and values [qualities, draws]."""
    return [
        [Point(float(rate), quality_of(metric, float(value))) for rate, value in zip(*curve, strict=True)]
        for curve in zip(rates.T, values.T, strict=True)
    ]
