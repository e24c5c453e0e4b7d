"""The conformance vectors: they agree with this installation, cover the format, and stay as they were made."""

import hashlib
import importlib
import json
import re
import shutil
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from slow_decoder import CorruptError, Network, Weights, corrected_samples, take_apart, webp_samples
from slow_decoder import picture as picture_by_a_second_decoder

from vaecodec import Codec
from vaecodec.cli import conformance, main
from vaecodec.errors import VaecMismatchError, VaecModelError
from vaecodec.format import container
from vaecodec.format.records import TileMode
from vaecodec.model.architecture import BUILT_IN, Architecture, float_shapes
from vaecodec.model.weights import built_in_path
from vaecodec.tiling.canvas import cut

ROOT = Path(__file__).parents[1]
VECTORS = conformance.folder() / "vectors"
MANIFEST = conformance.manifest()

# A limit of the caller; numbers that no sane weights reach.
CODES_WITHOUT_VECTOR = {"MAX_PIXELS", "NONFINITE"}


@pytest.mark.engines("native", "torch")
@pytest.mark.parametrize("name", MANIFEST["valid"])
def test_valid_vector_decodes_to_its_picture(shipped: Codec, name: str) -> None:
    """Size, mode and metadata exactly, pixels within the limits of the manifest."""
    conformance.check_valid(shipped, name, MANIFEST["valid"][name])


@pytest.mark.engines("native", "torch")
@pytest.mark.parametrize("name", MANIFEST["invalid"])
def test_must_fail_vector_is_refused(shipped: Codec, name: str) -> None:
    """The error has the class and the code that the manifest says."""
    conformance.check_invalid(shipped, name, MANIFEST["invalid"][name])


@pytest.fixture(scope="module")
def weights() -> dict[bytes, Weights]:
    """The built-in files as the second decoder reads them, by model id."""
    return {each.model_id: each for each in (Weights(built_in_path(tune)) for tune in BUILT_IN)}


@pytest.mark.parametrize("name", MANIFEST["valid"])
def test_a_second_decoder_makes_the_same_picture(weights: dict[bytes, Weights], name: str) -> None:
    """Written from docs/format.md alone, from bytes to pixels: within the limits of the manifest."""
    expected, data = MANIFEST["valid"][name], (VECTORS / f"{name}.vaec").read_bytes()
    found = picture_by_a_second_decoder(data, weights.get(data[16:20]) or next(iter(weights.values())))
    reference = np.asarray(Image.open(VECTORS / f"{name}.png"))
    assert take_apart(data).mode == expected["mode"] and found.shape[2] == len(expected["mode"])
    difference = np.abs(found.reshape(reference.shape).astype(int) - reference)
    if "largest_difference" in expected:
        assert difference.max() <= expected["largest_difference"]
        assert np.count_nonzero(difference) <= expected["differing_samples"]


def test_a_second_decoder_computes_in_either_precision() -> None:
    """Float64 gives the same picture within the limits: nothing hangs on how float32 rounds."""
    name = "encoder-photo"
    data, expected = (VECTORS / f"{name}.vaec").read_bytes(), MANIFEST["valid"][name]
    found = picture_by_a_second_decoder(data, Weights(built_in_path("psnr"), np.float64))
    difference = np.abs(found.astype(int) - np.asarray(Image.open(VECTORS / f"{name}.png")))
    assert difference.max() <= 1 and np.count_nonzero(difference) <= expected["differing_samples"]


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_second_decoder_makes_the_same_previews(shipped: Codec, weights: dict[bytes, Weights], scale: int) -> None:
    """By the linear maps of the page; at 1/8 from the base alone, whose means may be computed in bfloat16."""
    data = (VECTORS / "encoder-photo.vaec").read_bytes()
    (tile,), network = take_apart(data).tiles, Network(weights[data[16:20]], data[20])
    _, z, symbols = network.symbols(tile.payload, -(-tile.height // 16), -(-tile.width // 16))
    latents = network.latents(z, symbols, base_only=scale == 8)
    found = network.preview(latents, 16 // scale)[: -(-tile.height // scale), : -(-tile.width // scale)]
    expected = shipped.decode(data, scale=1 / scale)
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= (1 if scale < 8 else 2)


def test_the_document_tells_what_a_decoder_needs() -> None:
    """The second decoder uses every float tensor but those that the page leaves to encoders and previews."""
    used = set[str]()

    class Watched(Weights):
        def __getitem__(self, name: str) -> np.ndarray:
            used.add(name)
            return super().__getitem__(name)

    picture_by_a_second_decoder((VECTORS / "encoder-photo.vaec").read_bytes(), Watched(built_in_path("psnr")))
    text = (ROOT / "docs/format.md").read_text()
    assert "Tensors `analysis.*` and `hyper_analysis.*` are for encoders only" in text
    left = {name for name in float_shapes(Architecture()) if name not in used}
    assert left and {name.split(".")[0] for name in left} == {"analysis", "hyper_analysis", "preview"}


@pytest.mark.parametrize(
    "name",
    [name for name, facts in MANIFEST["invalid"].items()
     if re.match("CODER|ESCAPE|LATENT|SAMPLES|TILE_CRC|HEADER_CRC|MODEL|CORRECTION|BAD_MAGIC|VERSION", facts["code"])],
)  # fmt: skip
def test_a_second_decoder_refuses_whole_files_alike(weights: dict[bytes, Weights], name: str) -> None:
    """Checksums that do not hold, payloads that do not end as they began, other weights."""
    data = (VECTORS / f"{name}.vaec").read_bytes()
    with pytest.raises(CorruptError):
        picture_by_a_second_decoder(data, weights.get(data[16:20]) or next(iter(weights.values())))


@pytest.mark.parametrize("name", [name for name, facts in MANIFEST["valid"].items() if "corrected" in facts["tiles"]])
def test_a_second_decoder_corrects_alike(shipped: Codec, name: str) -> None:
    """What the learned parts alone show, and corrections added to it one sample at a time: the same picture."""
    stream = container.read((VECTORS / f"{name}.vaec").read_bytes())
    boxes, tiles = stream.header.boxes(), list(stream.tiles)
    for number, tile in enumerate(stream.tiles):
        if tile.mode == TileMode.CORRECTED:
            learned_bytes = int.from_bytes(tile.payload[:4], "little")
            tiles[number] = tile._replace(mode=TileMode.LEARNED, payload=tile.payload[9 : 9 + learned_bytes])
    expected = shipped.decode(container.write(stream.header, tiles), output="numpy")
    shape = (expected.shape[0], expected.shape[1], -1)
    expected = expected.reshape(shape).copy()
    for box, tile in zip(boxes, stream.tiles, strict=True):
        if tile.mode == TileMode.CORRECTED:
            place = expected[box.top :, box.left :, : box.channels][: box.height, : box.width]
            samples = corrected_samples(tile.payload, place.tobytes(), box.height, box.width, box.channels)
            place[:] = np.frombuffer(samples, np.uint8).reshape(place.shape)
    decoded = shipped.decode(VECTORS / f"{name}.vaec", output="numpy").reshape(shape)
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("name", [name for name, facts in MANIFEST["valid"].items() if "webp" in facts["tiles"]])
def test_a_second_decoder_reads_webp_alike(name: str) -> None:
    """Each WebP tile gives the samples of the vector's picture."""
    stream = container.read((VECTORS / f"{name}.vaec").read_bytes())
    picture = np.atleast_3d(np.asarray(Image.open(VECTORS / f"{name}.png")))
    for box, tile in zip(stream.header.boxes(), stream.tiles, strict=True):
        if tile.mode == TileMode.WEBP:
            samples = webp_samples(tile.payload, box.height, box.width, box.channels)
            assert cut(picture, box).tobytes() == samples


@pytest.mark.parametrize(
    "name", [n for n, facts in MANIFEST["invalid"].items() if facts["code"].startswith(("W", "CORR"))]
)
def test_a_second_decoder_refuses_alike(name: str) -> None:
    """Payloads that are no WebP file of ours, or no correction."""
    stream = container.read((VECTORS / f"{name}.vaec").read_bytes())
    (box,), (tile,) = stream.header.boxes(), stream.tiles
    shape = box.height, box.width, box.channels
    is_corrected = tile.mode == TileMode.CORRECTED
    read = (
        partial(corrected_samples, tile.payload, bytes(box.raw_bytes))
        if is_corrected
        else partial(webp_samples, tile.payload)
    )
    with pytest.raises((CorruptError, OSError)):
        read(*shape)


def test_vectors_are_untouched_and_no_others_lie_there() -> None:
    """Every file has the hash in the manifest, and there is none that the manifest does not name."""
    expected = {
        f"{name}.vaec": facts["sha256"] for part in ("valid", "invalid") for name, facts in MANIFEST[part].items()
    }
    expected |= {f"{name}.png": facts["png_sha256"] for name, facts in MANIFEST["valid"].items()}
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VECTORS.iterdir()} == expected


def test_vectors_ship_with_the_package() -> None:
    """Both parts are put where an installed package looks for them, and are small."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for part in ("vectors", "manifest.json"):
        assert build["force-include"][f"tests/conformance/{part}"] == f"vaecodec/conformance/{part}"
    assert sum(path.stat().st_size for path in VECTORS.iterdir()) < 300_000


def test_vectors_are_of_the_shipped_model() -> None:
    """Vectors and weights belong together."""
    assert MANIFEST["model_id"] == Codec(None, "cpu", tune="psnr").engine.model_id.hex()


def test_vectors_cover_the_format() -> None:
    """At least 40 valid and 20 must-fail vectors: all pixel formats, tile modes and ends of quality, several tiles."""
    valid = MANIFEST["valid"].values()
    assert len(valid) >= 40
    assert len(MANIFEST["invalid"]) >= 20
    assert {facts["mode"] for facts in valid} == {"L", "LA", "RGB", "RGBA"}
    assert {mode for facts in valid for mode in facts["tiles"]} == {
        "learned", "zlib", "solid", "webp", "corrected",
    }  # fmt: skip
    assert {facts["quality"] for facts in valid} >= {1, 2, 50, 75, 99, 100}
    assert {key for facts in valid for key in facts["metadata"]} == {"icc_profile", "exif", "xmp"}
    assert any(facts["tiles"] == ["learned", "solid", "zlib", "learned"] for facts in valid)


def test_every_error_of_the_document_has_a_vector() -> None:
    """Each class and code that docs/format.md lists is the answer to some must-fail vector, and to no other one."""
    rows = re.findall(r"^\| \d+ \| .* \| (Vaec\w+) \| ([A-Z_, ]+) \|$", (ROOT / "docs/format.md").read_text(), re.M)
    documented = {(error, code) for error, codes in rows for code in codes.split(", ")}
    found = {(facts["error"], facts["code"]) for facts in MANIFEST["invalid"].values()}
    assert len(documented) > 20
    assert found == {(error, code) for error, code in documented if code not in CODES_WITHOUT_VECTOR}


def test_the_document_counts_them() -> None:
    """docs/reliability.md says how many there are."""
    text = " ".join((ROOT / "docs/reliability.md").read_text().split())
    assert f"has {len(MANIFEST['valid'])} files that must decode" in text
    assert f"and {len(MANIFEST['invalid'])} that must be refused" in text


@pytest.mark.slow
def test_the_writer_still_makes_these_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code names the files that lie there; on its way it checks each of them against what it should test."""
    monkeypatch.syspath_prepend(conformance.folder())
    make_vectors = importlib.import_module("make_vectors")
    expected = {f"vectors/{path.name}" for path in VECTORS.iterdir()} | {"manifest.json"}
    assert make_vectors.make(Codec(None, "cpu", tune="psnr")).keys() == expected


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the vectors that a test may spoil."""
    shutil.copytree(VECTORS, tmp_path / "vectors")
    shutil.copy(conformance.folder() / "manifest.json", tmp_path)
    monkeypatch.setattr(conformance, "folder", lambda: tmp_path)
    return tmp_path


def edit(folder: Path, part: str, name: str, **facts: object) -> None:
    """Change what the manifest of a copy expects of one vector."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[part][name] |= facts
    (folder / "manifest.json").write_text(json.dumps(manifest))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_doctor_checks_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vaecodec doctor --conformance` says how many agree, and without the option leaves them alone."""
    monkeypatch.setattr("vaecodec.cli.doctor.Codec", Codec)  # it was a stand-in's if another test imported the module
    result = CliRunner().invoke(main, ["doctor", "--conformance"])
    assert result.exit_code == 0, result.output
    assert f"{len(MANIFEST['valid'])} vectors decode" in result.stdout
    assert "vectors" not in CliRunner().invoke(main, ["doctor"]).stdout


def test_every_kind_of_disagreement_is_told_by_name(copy: Path, shipped: Codec) -> None:
    """Other pixels, mode, size, metadata, error, no error, other bytes and a missing file: each names its vector."""
    files = copy / "vectors"
    for name, other in (("size-64x64", "quality-1"), ("mode-rgba", "mode-l"), ("quality-1", "quality-100")):
        shutil.copy(files / f"{other}.png", files / f"{name}.png")
        edit(copy, "valid", name, png_sha256=sha256(files / f"{name}.png"))
    edit(copy, "valid", "meta-xmp", metadata={})
    edit(copy, "invalid", "bad-magic", code="VERSION")
    shutil.copy(files / "mode-l.vaec", files / "bad-version.vaec")
    edit(copy, "invalid", "bad-version", sha256=sha256(files / "bad-version.vaec"))
    (files / "bad-feature.vaec").write_bytes(b"")
    (files / "mode-la.png").unlink()
    with pytest.raises(VaecMismatchError) as caught:
        conformance.check_all(shipped)
    told = re.findall(
        r"(?:: |; )([a-z0-9-]+): (size is|mode is|metadata is|largest|the error|it decodes|\S+ is not|\S+ cannot)",
        str(caught.value),
    )
    assert caught.value.code == "CONFORMANCE"
    assert dict(told) == {
        "size-64x64": "size is", "mode-rgba": "mode is", "quality-1": "largest", "meta-xmp": "metadata is",
        "bad-magic": "the error", "bad-version": "it decodes", "bad-feature": "bad-feature.vaec is not",
        "mode-la": "mode-la.png cannot",
    }  # fmt: skip


def test_a_difference_in_too_many_samples_is_told(copy: Path, shipped: Codec) -> None:
    """One level is allowed only in so many samples as the manifest says."""
    path = copy / "vectors" / "quality-40.png"
    decoded = shipped.decode(path.with_suffix(".vaec"))
    decoded.point(lambda level: min(level + 1, 255)).save(path)
    edit(copy, "valid", "quality-40", png_sha256=sha256(path))
    with pytest.raises(VaecMismatchError, match="differing_samples"):
        conformance.check_valid(shipped, "quality-40", conformance.manifest()["valid"]["quality-40"])


def test_vectors_of_another_model_or_none_at_all(copy: Path, tiny: Codec) -> None:
    """Weights that the vectors were not made with, and a package without vectors, are VaecModelError."""
    with pytest.raises(VaecModelError, match="made with the model"):
        conformance.check_all(tiny)
    (copy / "manifest.json").unlink()
    with pytest.raises(VaecModelError, match="not installed"):
        conformance.check_all(tiny)
