"""Laws of what lossy files are worth: estimates follow the files, and qualities follow from estimates."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from lossless_codec import vaec
from PIL import Image

import vaecodec
from vaecodec import Codec, VaecImageError
from vaecodec.pictures import fidelity, writers

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/ is not part of the installed package

from benchmarks import fidelity as benchmark


def coded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def estimated(data: bytes) -> fidelity.Estimate | None:
    with Image.open(io.BytesIO(data)) as image:
        return fidelity.estimate(image, data)


@pytest.fixture(scope="module")
def photograph(kodak: list[Path]) -> Image.Image:
    with Image.open(kodak[22]) as image:
        return image.convert("RGB").crop((0, 0, 320, 256))


@pytest.mark.parametrize("quality", [25, 50, 75, 90, 96])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality: int, photograph: Image.Image) -> None:
    """Whatever is in it, in colour and in grey."""
    for image in (photograph, photograph.convert("L")):
        found = estimated(coded(image, "JPEG", quality=quality))
        assert found is not None and found.quality is not None
        assert abs(found.quality - quality) <= 1


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF"])
def test_better_files_are_kept_better(format: str, photograph: Image.Image) -> None:
    """Score and quality rise with the quality of the file."""
    found = [estimated(coded(photograph, format, quality=quality)) for quality in (30, 60, 90)]
    scores = [each.score for each in found if each]
    qualities = [each.vaec_quality for each in found if each]
    assert len(set(scores)) == 3 and scores == sorted(scores)
    assert len(set(qualities)) == 3 and qualities == sorted(qualities)


def test_nothing_is_estimated_of_what_is_lossless(photograph: Image.Image) -> None:
    """PNG, and WebP of that kind."""
    assert estimated(coded(photograph, "PNG")) is None
    assert estimated(coded(photograph, "WEBP", lossless=True)) is None


def test_a_file_at_a_path_is_estimated_as_in_memory(photograph: Image.Image, tmp_path: Path) -> None:
    """Of which only the beginning is read."""
    path = tmp_path / "a.webp"
    path.write_bytes(coded(photograph, "WEBP"))
    with Image.open(path) as image:
        assert fidelity.estimate(image, str(path)) == estimated(path.read_bytes())


def test_the_curves_rise() -> None:
    """Both of them can be read either way."""
    for curve in (fidelity.VAEC, fidelity.JPEG):
        assert list(curve) == sorted(curve) and list(curve.values()) == sorted(curve.values())


@pytest.mark.parametrize("quality", range(30, 96, 5))
def test_there_and_back_is_the_same_quality(quality: int) -> None:
    """JPEG to .vaec to JPEG."""
    there = fidelity.Estimate("JPEG", float(np.interp(quality, *zip(*fidelity.JPEG.items(), strict=True)))).vaec_quality
    assert abs(fidelity.jpeg_quality_for(there) - quality) <= 2
    assert writers.quality_after("JPEG", there) == fidelity.jpeg_quality_for(there)
    assert writers.quality_after("MPO", there) is None  # its own default: hardly anybody expects a loss there


@pytest.mark.parametrize("quality", [40, 75, 92])
def test_a_jpeg_stays_as_small_as_it_was(quality: int, shipped: Codec, photograph: Image.Image) -> None:
    """As .vaec it is smaller, and the JPEG that is made of that is at most a little larger than the first."""
    original = coded(photograph, "JPEG", quality=quality, optimize=True)
    found = estimated(original)
    assert found
    data = shipped.encode(original, found.vaec_quality)
    assert len(data) < len(original)
    back = io.BytesIO()
    shipped.decode_file(data, back, format="JPEG")
    assert len(back.getvalue()) < 1.05 * len(original)


def test_quality_and_subsampling_are_those_of_the_file(tmp_path: Path) -> None:
    """Explicit ones win; a file without loss becomes a JPEG of full colour; what a format does not have is refused."""
    data = vaec(picture(64, 64))

    def layers(**options: object) -> tuple[int, object]:
        file = io.BytesIO()
        vaecodec.decode_file(data, file, format="JPEG", **options)  # type: ignore[arg-type]
        with Image.open(file) as image:
            return round(fidelity.jpeg_quality(image.quantization[0])), image.layer[0][1:3]  # type: ignore[attr-defined]

    assert layers()[0] > 95 and layers()[1] == (1, 1)
    assert layers(quality=60) == (60, (2, 2))
    assert layers(quality=60, subsampling="4:2:2") == (60, (2, 1))
    for format, options in (("PNG", {"quality": 50}), ("JPEG", {"quality": 0}), ("WEBP", {"subsampling": "4:4:4"}),
                            ("JPEG", {"subsampling": "4:1:0"})):  # fmt: skip
        with pytest.raises(VaecImageError) as caught:
            vaecodec.decode_file(data, tmp_path / "x", format=format, **options)  # type: ignore[arg-type]
        assert caught.value.code == "ARGUMENT"
    assert not (tmp_path / "x").exists()


def test_the_curves_can_be_measured_again(
    tiny: Codec, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script has a line for every quality of every format, and refuses a folder without pictures."""
    monkeypatch.setattr(benchmark, "QUALITIES", (20, 90))
    monkeypatch.setattr(benchmark, "SOURCES", {"JPEG": (30, 90), "WEBP": (50,)})
    Image.fromarray(picture(64, 80)).save(tmp_path / "a.png")
    assert benchmark.main([str(tmp_path), "--side", "48"], tiny) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["VAEC 20", "VAEC 90", "JPEG 30", "JPEG 90", "WEBP 50"]
    assert float(lines[2].split()[2].strip(",")) < float(lines[3].split()[2].strip(","))
    (tmp_path / "a.png").unlink()
    with pytest.raises(SystemExit):
        benchmark.main([str(tmp_path)], tiny)
