"""The package for browsers shows what this one shows: wholes, regions and previews of files of every kind."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vaecodec
from vaecodec import Codec

WEB = Path(__file__).parents[1] / "web"
VECTORS = Path(__file__).parent / "conformance" / "vectors"
SIZE = 600, 330
SHARE = 0.001  # of samples that may differ, by one level

needs_web = pytest.mark.skipif(
    not (WEB / "dist" / "vaecodec.wasm").exists() or shutil.which("node") is None,
    reason="web/dist is not built (make web), or there is no node",
)


def picture(mode: str) -> Image.Image:
    """Waves of several sizes, a flat corner, and coverage that changes within tiles."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    colours = [128 + 90 * np.sin(x / (9 + 3 * n)) * np.cos(y / (13 - 2 * n)) for n in range(3)]
    alpha = (255 * (np.hypot(x - 250, y - 160) < 130)) * (0.5 + 0.5 * np.sin(x / 30) ** 2)
    samples = np.stack([*colours, alpha], 2).round().clip(0, 255).astype(np.uint8)
    samples[:90, :300, :3] = 200, 10, 60
    return Image.fromarray(samples).convert(mode)


def shown_by_web(requests: list[tuple[Path, dict[str, object]]], sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """RGBA [H, W, 4] of each request."""
    stdin = json.dumps([{"file": str(file), "options": options} for file, options in requests])
    node = ["node", str(WEB / "test" / "decode.js")]
    data = subprocess.run(node, input=stdin.encode(), capture_output=True, check=True).stdout
    ends = np.cumsum([4 * width * height for width, height in sizes])
    assert ends[-1] == len(data)
    parts = np.split(np.frombuffer(data, np.uint8), ends[:-1])
    return [part.reshape(height, width, 4) for part, (width, height) in zip(parts, sizes, strict=True)]


@needs_web
def test_web_package_shows_the_same(tmp_path: Path, shipped: Codec) -> None:
    """Within one level in a thousandth of the samples, and exactly without the network."""
    requests, expected = [], []
    for mode in ("L", "RGB", "LA", "RGBA"):
        file = tmp_path / f"{mode}.vaec"
        file.write_bytes(shipped.encode(picture(mode), 60))
        box = (17, 33, 471, 290)
        requests.append((file, {"region": box}))
        expected.append(shipped.decode_region(file, box))
    names = ["corrected-tiles", "corrected-alpha", "mode-rgba-plain", "filter-rgb-7", "encoder-eye"]
    files = [*(file for file, _ in requests), *(VECTORS / f"{name}.vaec" for name in names)]
    for file in files:
        for scale in (1, 1 / 2, 1 / 4, 1 / 8):
            requests.append((file, {"scale": scale}))
            expected.append(shipped.decode(file, scale=scale))
    found = shown_by_web(requests, [image.size for image in expected])
    for (file, options), image, samples in zip(requests, expected, found, strict=True):
        difference = np.abs(np.subtract(samples, np.asarray(image.convert("RGBA")), dtype=np.int16))
        assert difference.max() <= 1, (file.name, options)
        assert np.count_nonzero(difference) <= max(4, SHARE * difference.size), (file.name, options)


def test_versions_agree() -> None:
    """The npm package has the version of this one."""
    assert json.loads((WEB / "package.json").read_text())["version"] == vaecodec.__version__
    assert json.loads((WEB / "package-lock.json").read_text())["version"] == vaecodec.__version__
