"""Chunks of zarr arrays and whatever numcodecs codes: pictures in, the same shapes out, damage an error."""

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from numpy.typing import NDArray

import vaecodec
from vaecodec import VaecChecksumError, VaecError, VaecFormatError, VaecImageError

numcodecs = pytest.importorskip("numcodecs", reason="numcodecs is not installed")

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def entry_point(group: str) -> tuple[str, Any]:
    """Name and class that pyproject.toml gives to a group."""
    ((name, value),) = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"][group].items()
    return name, EntryPoint(name, value, group).load()


def codec(**settings: Any) -> Any:
    """numcodecs' codec, found by its id as a reader of an array finds it."""
    name, found = entry_point("numcodecs.codecs")
    numcodecs.register_codec(found)
    return numcodecs.get_codec({"id": name, **settings})


@pytest.fixture(scope="module")
def zarr() -> Any:
    """zarr 3, to which the codec is known as an installed entry point makes it."""
    module = pytest.importorskip("zarr", minversion="3", reason="zarr 3 is not installed")
    module.registry.register_codec(*entry_point("zarr.codecs"))
    return module


def photos() -> NDArray[np.uint8]:
    """Two pictures, [2, 64, 96, 3]."""
    return np.stack([picture(64, 96, seed=seed) for seed in range(2)])


@pytest.mark.parametrize("shape", [(40, 56), (40, 56, 3), (40, 56, 4), (1, 40, 56, 3), (1, 1, 40, 56), (40, 56, 1)])
def test_numcodecs_keeps_every_sample_if_asked(shape: tuple[int, ...]) -> None:
    """Grey, colour and alpha, with axes of length 1 in front; into an array of the caller's, too."""
    samples = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    exact = codec(lossless=True)
    data, out = exact.encode(samples), np.empty_like(samples)
    assert vaecodec.is_vaec(data)
    assert np.array_equal(np.asarray(exact.decode(data)).reshape(shape), samples)
    exact.decode(data, out)
    assert np.array_equal(out, samples)


def test_settings_are_those_of_the_file() -> None:
    """A codec is rebuilt from what an array's metadata say, and encodes as they say."""
    settings = {"id": "vaec", "quality": 40, "lossless": False, "tune": "psnr"}
    made = codec(quality=40, tune="psnr")
    assert made.get_config() == settings and numcodecs.get_codec(made.get_config()) == made
    assert made.encode(photos()[0]) == vaecodec.encode(photos()[0], 40, tune="psnr")


@pytest.mark.parametrize(
    ("shape", "kind"), [((2, 8, 8, 3), np.uint8), ((8, 8, 5), np.uint8), ((8, 8), np.uint16), ((8,), np.uint8)]
)
def test_what_is_no_picture_is_refused(shape: tuple[int, ...], kind: type[np.generic]) -> None:
    """Several pictures, too many channels, other types."""
    with pytest.raises(VaecImageError):
        codec().encode(np.zeros(shape, kind))


@pytest.mark.parametrize(
    "settings", [{"zarr_format": 3}, {"zarr_format": 3, "shards": (1, 64, 96, 3)}, {"zarr_format": 2}]
)
def test_arrays_come_back(zarr: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Written, opened anew by what their metadata say, and read: what `vaecodec` makes of each chunk."""
    if settings["zarr_format"] == 2:
        settings = settings | {"compressors": codec(quality=60)}
    else:
        settings = settings | {"serializer": entry_point("zarr.codecs")[1](quality=60), "compressors": None}
    zarr.create_array(tmp_path / "a.zarr", data=photos(), chunks=(1, 64, 48, 3), **settings)
    found = zarr.open_array(tmp_path / "a.zarr", mode="r")[:]
    for samples, original in zip(found, photos(), strict=True):
        for part in (np.s_[:, :48], np.s_[:, 48:]):
            data = vaecodec.encode(original[part], 60)
            assert np.array_equal(samples[part], vaecodec.decode(data, output="numpy"))


def test_damaged_and_foreign_chunks_raise(zarr: Any, tmp_path: Path) -> None:
    """A flipped bit, and the whole picture of another array."""
    _, serializer = entry_point("zarr.codecs")
    zarr.create_array(
        tmp_path / "a.zarr", data=photos(), chunks=(1, 64, 96, 3), serializer=serializer(), compressors=None
    )
    (first, second) = sorted(
        path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file() and path.name != "zarr.json"
    )
    array = zarr.open_array(tmp_path / "a.zarr", mode="r")
    data = first.read_bytes()
    first.write_bytes(data[:-8] + bytes([data[-8] ^ 1]) + data[-7:])
    second.write_bytes(vaecodec.encode(picture(8, 8)))
    with pytest.raises(VaecError) as damaged:
        array[0]
    assert isinstance(damaged.value, VaecChecksumError)
    with pytest.raises(VaecFormatError) as foreign:
        array[1]
    assert foreign.value.code == "SHAPE"


def examples() -> list[str]:
    """Every example of docs/desktop.md."""
    return re.findall(r"```python\n(.*?)```", (PYPROJECT.parent / "docs" / "desktop.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("code", examples(), ids=lambda code: code.split()[1])
def test_the_examples_work(zarr: Any, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand."""
    codec()
    if "imageio" in code:
        pytest.importorskip("imageio.v3", reason="imageio is not installed: extra [data]")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
