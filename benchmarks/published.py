"""Published rate-distortion points of others (published.json, with sources), kept separate from our results."""

import json
from pathlib import Path
from typing import Any

from benchmarks.metrics import Point, quality_of

PATH = Path(__file__).with_name("published.json")


def sources(dataset: str) -> dict[str, str]:
    """The source of the points of each codec on a data set; empty if there are none."""
    return {name: codec["source"] for name, codec in _codecs(dataset).items()}


def curves(dataset: str, metric: str = "psnr_db") -> dict[str, list[Point]]:
    """Curves by codec, in the units of `Record.curve`, of the codecs whose source gives this metric."""
    return {
        name: [Point(rate, quality_of(metric, value)) for rate, value in zip(codec["bpp"], codec[metric], strict=True)]
        for name, codec in _codecs(dataset).items()
        if metric in codec
    }


def _codecs(dataset: str) -> dict[str, dict[str, Any]]:
    everything = json.loads(PATH.read_text())
    return everything[dataset] if dataset != "note" and dataset in everything else {}
