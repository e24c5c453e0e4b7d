"""Laws of previews: their sizes, how near they are to the reduced picture, and Pillow's draft and thumbnail."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from lossless_codec import vaec
from PIL import Image

import vaecodec
from vaecodec import Codec, codec
from vaecodec.errors import VaecFormatError, VaecImageError
from vaecodec.pictures import pixels

pytestmark = pytest.mark.engines("native", "torch")

SCALES = (2, 4, 8)


def reduced(samples: np.ndarray, scale: int) -> np.ndarray:
    """The means of blocks; at the right and bottom edges the picture goes on as it ends."""
    height, width, channels = (padded := pixels.pad_edge(samples, scale)).shape
    blocks = padded.reshape(height // scale, scale, width // scale, scale, channels).astype(float)
    means: np.ndarray = blocks.mean((1, 3))
    if channels in (2, 4):  # colours count as much as their alpha
        weights = blocks[..., -1:].sum((1, 3))
        shown = (blocks[..., :-1] * blocks[..., -1:]).sum((1, 3)) / np.maximum(weights, 1)
        means[..., :-1] = np.where(weights > 0, shown, means[..., :-1])
    return means


@settings(max_examples=25)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 4), st.sampled_from(SCALES), st.integers(0, 9))
def test_a_preview_has_the_mode_and_its_share_of_the_sides(
    tiny: Codec, height: int, width: int, channels: int, scale: int, seed: int
) -> None:
    """Sides are rounded up; alpha and what is stored without loss become exact means; of any picture."""
    data = tiny.encode(picture(height, width, channels, seed=seed), 60)
    preview = tiny.decode(data, scale=1 / scale, output="numpy")
    whole = np.atleast_3d(tiny.decode(data, output="numpy"))
    expected = reduced(whole, scale)
    assert np.atleast_3d(preview).shape == expected.shape
    if channels in (2, 4):
        assert np.abs(preview[..., -1] - expected[..., -1]).max() <= 0.5


@pytest.mark.parametrize("scale", SCALES)
def test_a_preview_is_near_the_reduced_picture(shipped: Codec, scale: int, kodak: list[Path]) -> None:
    """With the shipped weights, on a photograph, above 30 dB at every scale, and more the smaller it is."""
    data = shipped.encode(kodak[2], 60)
    whole = shipped.decode(data, output="numpy")
    preview = shipped.decode(data, scale=1 / scale, output="numpy")
    assert pixels.psnr_db(reduced(whole, scale).round().astype(np.uint8), preview) > {2: 30, 4: 34, 8: 38}[scale]


@pytest.mark.parametrize("scale", SCALES)
def test_a_preview_does_without_synthesis(tiny: Codec, scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what it saves."""
    data = tiny.encode(picture(90, 90), 60)
    tiny.decode(data, scale=1 / scale)  # the map is fitted once, which synthesizes

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("synthesize was called")

    monkeypatch.setattr(type(tiny.engine), "synthesize", refuse)
    assert tiny.decode(data, scale=1 / scale).size == (-(-90 // scale), -(-90 // scale))


@pytest.mark.parametrize("scale", SCALES)
def test_tiles_of_a_preview_meet(scale: int) -> None:
    """Stored without loss, in tiles of 256 pixels, a picture whose sides are no multiples becomes its means."""
    samples = picture(301, 523, 4)
    preview = vaecodec.decode(vaec(samples), scale=1 / scale, output="numpy")
    assert np.abs(preview - reduced(samples, scale)).max() <= 0.5


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("is_learned", [False, True])
def test_previews_have_no_dark_fringes(tiny: Codec, scale: int, is_learned: bool) -> None:
    """Around what is opaque, the black of what is transparent does not show through."""
    samples = picture(70, 90, 4)
    samples[..., 3] = 255 * (np.add.outer(np.arange(70), np.arange(90)) > 60)
    samples[samples[..., 3] == 0] = 0
    data = tiny.encode(samples, 60) if is_learned else vaec(samples)
    whole = np.asarray(tiny.decode(data, output="numpy"))
    preview = tiny.decode(data, scale=1 / scale, output="numpy")
    assert np.abs(preview - reduced(whole, scale)).max() <= 0.5


@pytest.mark.parametrize("scale", [0, 2, 1 / 3, 0.3, -0.5, "1/2", None])
def test_another_scale_is_refused(tiny: Codec, scale: Any) -> None:
    """The four are named."""
    with pytest.raises(VaecImageError, match="must be 1, 1/2, 1/4 or 1/8") as caught:
        tiny.decode(b"not read", scale=scale)
    assert caught.value.code == "ARGUMENT"


# --- Pillow's draft and thumbnail -------------------------------------------------------------------------------------

SAMPLES = picture(301, 402)
DATA = vaec(SAMPLES, {"exif": Image.Exif().tobytes()})


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((50, 37), 8),
        ((51, 37), 4),
        ((50, 38), 4),
        ((100, 75), 4),
        ((101, 10), 2),
        ((1, 1), 8),
        ((0, 0), 8),
        ((201, 1), 2),
    ],
)
def test_draft_chooses_the_smallest_preview_that_is_large_enough(size: tuple[int, int], scale: int) -> None:
    """Size, tile and box are those of the preview, which `load` then gives; the mode stays, info too."""
    with Image.open(io.BytesIO(DATA)) as image:
        info = dict(image.info)
        assert image.draft("L", size) == ("RGB", (0, 0, 402 / scale, 301 / scale))
        assert image.size == (-(-402 // scale), -(-301 // scale))
        assert np.array_equal(np.asarray(image), codec.decode(DATA, scale=1 / scale, output="numpy"))
        assert (image.mode, image.info) == ("RGB", info)


@pytest.mark.parametrize("size", [(202, 1), (402, 301), (1000, 1000), None])
def test_draft_changes_nothing_where_no_preview_is_large_enough(size: tuple[int, int] | None) -> None:
    """The whole picture is loaded."""
    with Image.open(io.BytesIO(DATA)) as image:
        assert image.draft(None, size) is None
        assert np.array_equal(np.asarray(image), SAMPLES)


def test_only_the_first_draft_before_load_counts() -> None:
    """As for JPEG."""
    with Image.open(io.BytesIO(DATA)) as image:
        assert image.draft(None, (50, 37)) is not None
        assert image.draft(None, (5, 3)) is None
        image.load()
        assert image.draft(None, (5, 3)) is None
        assert image.size == (51, 38)


def test_a_draft_of_a_file_that_was_exchanged_is_refused() -> None:
    """What is loaded must be what was opened."""
    file = io.BytesIO(DATA)
    with Image.open(file) as image:
        image.draft(None, (50, 37))
        file.seek(0)
        file.write(vaec(picture(100, 100)))
        file.truncate()
        with pytest.raises(VaecFormatError):
            image.load()


def test_thumbnail_decodes_a_preview(shipped: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Image.thumbnail` asks for a draft, and what it makes of it is near what it makes of the whole picture."""
    data, asked = shipped.encode(picture(640, 960), 60), list[float]()
    decode = codec.decode
    monkeypatch.setattr(codec, "decode", lambda *a, scale, **k: (asked.append(scale), decode(*a, scale=scale, **k))[1])
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((40, 40))
    whole = shipped.decode(data)
    whole.thumbnail((40, 40))
    assert (asked, image.size) == ([1 / 8], whole.size)
    assert pixels.psnr_db(np.asarray(image), np.asarray(whole)) > 35
