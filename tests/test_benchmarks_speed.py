"""The clocks of the benchmarks tell the truth, on this machine's processors, in other processes, and on a GPU."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import (  # noqa: E402
    codecs,
    datasets,
    gpu_jpeg,
    gpu_throughput,
    paired,
    peers,
    record,
    stages,
    throughput,
    timings,
)
from benchmarks.adapter import UnavailableError  # noqa: E402
from vaecodec.model import weights  # noqa: E402

ZOO = '''
import torch

class Coder:
    def compress(self, x):
        return [x.numpy().tobytes()]
    def decompress(self, strings, shape):
        return torch.frombuffer(bytearray(strings[0]), dtype=torch.uint8).reshape(1, 3, *shape)

class Model:
    """Codes the samples themselves, and the word hyper beside them."""
    def __init__(self, quality):
        self.quality, self.entropy_bottleneck, self.gaussian_conditional = quality, Coder(), Coder()
    def to(self, device):
        return self
    def eval(self):
        return self
    def update(self, force):
        pass
    def compress(self, x):
        print("a line on standard output")
        return {"strings": [self.gaussian_conditional.compress((x * 255).byte()), [b"hyper"]], "shape": x.shape[2:]}
    def decompress(self, strings, shape):
        assert strings[1] == [b"hyper"], strings
        return {"x_hat": self.gaussian_conditional.decompress(strings[0], shape).float() / 255}

def opener(quality, metric, pretrained):
    if pretrained and not TRAINED:
        raise OSError("no network")
    return Model(quality)

image_models = {"mbt2018-mean": opener}
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of two small pictures."""
    data = tmp_path / "two"
    data.mkdir()
    for number in range(2):
        Image.fromarray(picture(40, 56, seed=number)).save(data / f"{number}.png")
    return data


def install_zoo(folder: Path, monkeypatch: pytest.MonkeyPatch, *, trained: bool) -> None:
    """Put a package named compressai, with one model in its zoo, where workers find it."""
    (folder / "compressai").mkdir()
    (folder / "compressai" / "__init__.py").write_text("__version__ = '9'\n")
    (folder / "compressai" / "zoo.py").write_text(ZOO.replace("TRAINED", str(trained)))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv(peers.PYTHON, sys.executable)


# --- peers ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_learned_peer_works_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of any size come back, in order, with seconds by stage; without weights it is for timing only."""
    install_zoo(tmp_path, monkeypatch, trained=False)
    codec = codecs.open_codec("mbt2018-mean")
    assert codec.timing_only and codec.settings["weights"] == "untrained: timing only" and codec.qualities == (4,)
    assert codec.version.startswith("compressai 9, torch ") and codec.threads == torch.get_num_threads()
    for height, width in ((48, 70), (64, 64)):
        image = Image.fromarray(picture(height, width))
        assert codec.decode(codec.encode(image, 4)).tobytes() == image.tobytes()
        assert codec.stages is not None and set(codec.stages()) == {"network", "entropy coding"}
        assert all(seconds > 0 for seconds in codec.stages().values())
    with pytest.raises(RuntimeError, match="AssertionError"):
        codec.decode(bytes(20))
    assert codec.decode(codec.encode(image, 4)).size == image.size


@pytest.mark.slow
def test_a_learned_peer_with_weights_has_all_its_qualities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the weights can be had, its rate and distortion count."""
    install_zoo(tmp_path, monkeypatch, trained=True)
    codec = codecs.open_codec("mbt2018-mean")
    assert not codec.timing_only and codec.settings["weights"] == "published" and codec.qualities == tuple(range(1, 9))


def test_a_learned_peer_that_is_not_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CompressAI, a Python that is none, and a worker that dies are told apart and none of them hangs."""
    monkeypatch.delenv(peers.PYTHON, raising=False)
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=peers.PYTHON):
        codecs.open_codec("mbt2018-mean")
    monkeypatch.setenv(peers.PYTHON, "/no/such/python")
    with pytest.raises(UnavailableError, match="cannot be started"):
        codecs.open_codec("mbt2018-mean")
    monkeypatch.setenv(peers.PYTHON, "true")
    with pytest.raises(UnavailableError, match="does not start"):
        codecs.open_codec("mbt2018-mean")


# --- throughput -------------------------------------------------------------------------------------------------------


def test_a_stage_does_not_count_the_stages_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of nested stages add up to the whole, each counted once, and are gone when they are taken."""
    now = iter(range(100))
    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    watch = stages.Stopwatch()
    inner = watch.around("entropy coding", lambda: None)
    watch.around("hyper and context", lambda: (inner(), inner()))()
    taken = watch.take()
    assert taken["entropy coding"] == 2 and taken["hyper and context"] == 5 - 2
    assert not any(watch.take().values())


def test_throughput_measures_every_stage(tiny_weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One size gives times of all codecs, their ratios, a batch, and stages that add up; the clocks come off again."""
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    arguments = ["--threads", "1", "--megapixels", "0.01", "--codecs", "jpeg,nonsense", "--repeats", "2"]
    arguments += ["--data", str(folder), "--pictures", "2", "--batch", "3", "--model", str(tiny_weights)]
    before = stages.coding.read
    result = throughput.measure(throughput._parser().parse_args(arguments))
    assert stages.coding.read is before
    assert set(result["codecs"]) == {"vaecodec", "jpeg"}
    ours, jpeg = result["codecs"]["vaecodec"], result["codecs"]["jpeg"]
    assert (result["pictures"], result["repeats"]) == (2, 2)
    assert ours["encode_ratio"] == ours["decode_ratio"] == 1 and jpeg["decode_ratio"] > 0
    assert all(seconds > 0 for seconds in ours["encode_stages_s"].values())
    assert ours["decode_stages_s"]["analysis"] == 0 and "encode_stages_s" not in jpeg
    assert result["batch"]["pictures"] == 3 and result["batch"]["encode_s"] > 0
    assert json.loads(json.dumps(result)) == result


def test_ratios_are_taken_within_a_turn() -> None:
    """A turn that something disturbs counts once: the ratio is the median over turns, not one of medians."""
    ours, other = codecs.open_codec("webp"), codecs.open_codec("jpeg")
    turns = {ours: (1, 10, 3), other: (2, 20, 2)}
    samples = {codec: [(timings.Sample(each, None),) * 2 for each in seconds] for codec, seconds in turns.items()}
    assert timings._summary(other, [b"12", b"1234"], samples, ours)["encode_ratio"] == 0.5
    assert timings._summary(other, [b"12", b"1234"], samples, ours)["file_bytes"] == 3


def test_a_size_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file holds every run that has ended, the exit code tells that one has not."""
    run = {"threads": 1, "megapixels": 0.1, "peak_rss_bytes": None, "codecs": {}}

    def in_own_process(_: object, threads: int, megapixels: float) -> dict[str, object]:
        if megapixels > 1:
            raise subprocess.CalledProcessError(-9, "worker")
        return run

    monkeypatch.setattr(throughput, "_in_own_process", in_own_process)
    monkeypatch.setattr(throughput, "cold_start", lambda _: {"encode": 1.0})
    monkeypatch.setattr(throughput.codecs, "open_codec", lambda *_, **__: SimpleNamespace(describe=dict))
    out = tmp_path / "speed.json"
    assert throughput.main(["--megapixels", "0.1,9", "--threads", "1", "--out", str(out)]) == 1
    assert json.loads(out.read_text())["runs"] == [run] and "9 MP: failed" in capsys.readouterr().err


def test_pictures_of_a_size_are_tiled(folder: Path) -> None:
    """A picture of any size is made of mirrored copies of one of the set; no more are made than there are."""
    image, _ = timings.pictures_of(0.02, str(folder), 5)
    assert image.width * image.height == pytest.approx(20_000, rel=0.02)
    source = datasets.find(str(folder)).pictures[0].load()
    assert image.crop((0, 0, 56, 40)) == source
    assert image.crop((56, 0, 112, 40)) == source.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


# --- on a GPU ---------------------------------------------------------------------------------------------------------


def test_batches_are_timed_with_and_without_transfers(
    folder: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch size gives times, images/s and megapixels/s of both ways; the processor stands in for a GPU."""
    now = iter(range(1000))
    monkeypatch.setattr(gpu_throughput, "time", SimpleNamespace(perf_counter=lambda: next(now) / 2))
    out = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--data", str(folder), "--batches", "1,3", "--repeats", "2", "--out", str(out)]
    assert gpu_throughput.main([*arguments, "--model", str(tiny_weights)]) == 0
    rows = [row for row in json.loads(out.read_text())["batches"] if row["codec"] == "vaecodec"]
    assert [(row["batch"], row["action"]) for row in rows] == [
        (1, "encode"), (1, "decode"), (3, "encode"), (3, "decode"),
    ]  # fmt: skip
    assert all(row["seconds"] == row["seconds_with_transfers"] == 0.5 for row in rows)
    assert rows[2]["images_per_s"] == 6 and rows[2]["megapixels_per_s"] == pytest.approx(6 * 40 * 56 / 1e6, abs=1e-3)


def test_a_batch_codec_must_decode_its_own_files() -> None:
    """Pictures of another shape are an error, not a time."""

    def shrunk(files: Sequence[bytes]) -> list[torch.Tensor]:
        return [torch.zeros(3, 8, 8, dtype=torch.uint8) for _ in files]

    broken = gpu_throughput.BatchCodec("broken", "1", lambda pictures: [b""] * len(pictures), shrunk)
    pictures = [torch.zeros(3, 16, 16, dtype=torch.uint8)]
    with pytest.raises(ValueError, match="broken decodes to"):
        gpu_throughput.measure(pictures, [broken], device="cpu", repeats=1)


def test_without_a_gpu_nothing_is_timed_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """JPEG on the GPU and the measurement say what is missing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="CUDA"):
        gpu_jpeg.open_backend()
    for device in ("cpu", "cuda"):
        with pytest.raises(UnavailableError):
            codecs.open_codec("jpeg-cuda", device=device)
    assert gpu_throughput.main(["--out", str(tmp_path / "x.json")]) == 2
    assert "no GPU" in capsys.readouterr().err and not (tmp_path / "x.json").exists()


def test_the_first_library_for_jpeg_on_the_gpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchcodec goes before nvImageCodec and torchvision; without any, all reasons are given."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    missing = ("torchcodec", "torchcodec.decoders", "nvidia", "torchvision")
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnavailableError, match=r"torchcodec.*nvimgcodec.*torchvision"):
        gpu_jpeg.open_backend()
    last = gpu_jpeg.Backend("a library", lambda pictures, quality: [], lambda files: [])
    monkeypatch.setattr(gpu_jpeg, "_torchvision", lambda: last)
    assert gpu_jpeg.open_backend() is last


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_events_on_the_gpu_cover_all_work() -> None:
    """The time of an action that only queues work is at least the time that the work takes."""
    x = torch.randn(4096, 4096, device="cuda")
    seconds = [gpu_throughput.timed(lambda n=n: [x @ x for _ in range(n)], "cuda") for n in (1, 1, 40)]
    assert seconds[2] > 10 * seconds[1] > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_run_on_the_gpu(folder: Path, tmp_path: Path) -> None:
    """The shipped model, and JPEG where a library for it is installed, encode and decode batches on the GPU."""
    out = tmp_path / "gpu.json"
    assert gpu_throughput.main(["--data", str(folder), "--batches", "1,3", "--repeats", "1", "--out", str(out)]) == 0
    assert {row["batch"] for row in json.loads(out.read_text())["batches"]} == {1, 3}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["_torchcodec", "_nvimgcodec", "_torchvision"])
def test_jpeg_on_the_gpu_keeps_pictures(name: str) -> None:
    """Each library that is installed decodes its own files to nearly the same pictures."""
    try:
        backend = getattr(gpu_jpeg, name)()
    except UnavailableError as reason:
        pytest.skip(str(reason))
    samples = torch.from_numpy(np.stack([picture(64, 96, seed=n) for n in range(2)])).permute(0, 3, 1, 2).contiguous()
    decoded = backend.decode(backend.encode(list(samples.cuda()), 95))
    for one, other in zip(decoded, samples, strict=True):
        assert one.is_cuda and (one.cpu().float() - other.float()).abs().mean() < 4


# --- the record -------------------------------------------------------------------------------------------------------


def test_recording_measures_what_was_asked_for_and_reports_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default vaecodec's curves alone are measured, then speed, then every report; the worst exit code counts."""
    calls: list[tuple[str, str]] = []

    def ran(name: str, arguments: Sequence[str]) -> int:
        calls.append((name, " ".join(map(str, arguments))))
        return 3 * (name == "throughput")

    scripts = "rd_curve", "quality_scale", "throughput", "gpu_throughput", "report", "model_card"
    for module in (getattr(record, name) for name in scripts):
        monkeypatch.setattr(module, "main", partial(ran, module.__name__.split(".")[-1]))
    monkeypatch.setattr(record.complexity, "record", lambda path: ran("complexity", [path]))
    assert record.main([]) == 3
    assert list(dict(calls)) == ["rd_curve", "quality_scale", "throughput", "complexity", "report", "model_card"]
    assert {"--codecs vaecodec" in arguments for name, arguments in calls if name == "rd_curve"} == {True}
    assert "README.md" in calls[-2][1]
    calls.clear()
    assert record.main(["--codecs", "heic", "--steps", "rd"]) == 0
    assert {name for name, _ in calls} == {"rd_curve"}


# --- two checkouts ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_checkouts_are_timed_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each side runs the package of its checkout: the same one here, so that the model is the same."""
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
    arguments = f"--before {ROOT} --after {ROOT} --data {tmp_path} --threads 1 --rounds 3 --out {tmp_path}/paired.json"
    assert paired.main(arguments.split()) == 0
    report = json.loads((tmp_path / "paired.json").read_text())
    assert json.loads(capsys.readouterr().out) == report
    assert report["before"]["model_id"] == report["after"]["model_id"] == weights.BUILT_IN[weights.DEFAULT_TUNE][:8]
    assert all(report["ratio"][way] > 0 and report["after"][f"{way}_s"] > 0 for way in paired.WAYS)
