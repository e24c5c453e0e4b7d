"""The golden files decode to the golden pictures, and the damaged ones are refused with the right code."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaecodec import Codec
from vaecodec.errors import VaecError

HERE = Path(__file__).parent / "conformance"
MANIFEST = json.loads((HERE / "manifest.json").read_text())


@pytest.mark.parametrize("name", MANIFEST["valid"])
def test_golden_file_decodes_to_its_picture(shipped: Codec, name: str) -> None:
    """At most one level of difference, on at most 0.1 % of samples; size and mode exactly."""
    data = (HERE / "vectors" / f"{name}.vaec").read_bytes()
    assert hashlib.sha256(data).hexdigest() == MANIFEST["valid"][name]["sha256"]
    decoded, expected = shipped.decode(data), Image.open(HERE / "vectors" / f"{name}.png")
    assert (decoded.size, decoded.mode) == (expected.size, expected.mode)
    difference = np.abs(np.asarray(decoded).astype(int) - np.asarray(expected))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.001


@pytest.mark.parametrize("name", MANIFEST["invalid"])
def test_damaged_golden_file_is_refused(shipped: Codec, name: str) -> None:
    """The error has the code that the manifest says."""
    with pytest.raises(VaecError) as caught:
        shipped.decode((HERE / "vectors" / f"{name}.vaec").read_bytes())
    assert caught.value.code == MANIFEST["invalid"][name]["code"]


def test_manifest_is_of_the_shipped_model(shipped: Codec) -> None:
    """Vectors and weights belong together."""
    assert MANIFEST["model_id"] == shipped.network.model_id.hex()
