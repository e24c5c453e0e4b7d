"""compressai for real: the network as one of its models, its tools on our weights, its models in .vaec files."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, picture
from PIL import Image

from vaecodec import Codec, VaecError
from vaecodec.errors import VaecCorruptError, VaecImageError, VaecMismatchError, VaecModelError
from vaecodec.format import container
from vaecodec.format.external import External
from vaecodec.format.records import TileMode
from vaecodec.pictures import pixels
from vaecodec.training import bottleneck
from vaecodec.training.data import Pictures
from vaecodec.training.export import Calibration
from vaecodec.training.objective import TrainingModel
from vaecodec.training.priors import hyper_prior

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what compressai and torchvision say while they are imported
    interop = pytest.importorskip(
        "vaecodec.interop.compressai", reason="compressai is not installed: make test-compressai", exc_type=ImportError
    )

from compressai import zoo
from compressai.losses import RateDistortionLoss
from compressai.optimizers import net_aux_optimizer

Container, VaeModel = interop.Container, interop.VaeModel
DOCS = (Path(__file__).parents[1] / "docs" / "interop.md").read_text()
FEW = Calibration(crops=4, qualities=2, patch_px=128, skip_below=1e-3)


def to_input(samples: Any) -> torch.Tensor:
    """Pictures [1, 3, H, W] in 0..1 of samples [H, W, 3]."""
    return torch.tensor(samples).permute(2, 0, 1)[None].float() / 255


def to_samples(x: torch.Tensor) -> Any:
    """The inverse of `to_input`, clamped and rounded."""
    return (x[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


# --- the network as one of compressai's models ------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [5, 60])
def test_strings_are_the_payloads_of_files(tiny: Codec, tiny_weights: Path, quality: int) -> None:
    """Payload, deblocking and pixels are those of a file that the codec writes of the same picture."""
    samples = picture(96, 144, seed=3)
    model = VaeModel.from_weights(tiny_weights, quality=quality).eval()
    coded = model.compress(to_input(samples))
    assert coded["shape"] == (6, 9)
    data = tiny.encode(samples, quality)
    stream = container.read(data)
    assert [tile.mode for tile in stream.tiles if tile] == [TileMode.LEARNED]
    assert coded["strings"] == [[stream.tiles[0].payload], [bytes([stream.header.deblocking_cut])]]  # type: ignore[union-attr]
    assert np.array_equal(to_samples(model.decompress(**coded)["x_hat"]), tiny.decode(data, output="numpy"))


def test_a_batch_is_its_pictures(tiny_weights: Path) -> None:
    """Strings and pictures of several at once are those of each."""
    model = VaeModel.from_weights(tiny_weights, quality=50).eval()
    x = torch.cat([to_input(picture(64, 64, seed=seed)) for seed in range(2)])
    coded = model.compress(x)
    for number, alone in enumerate(x):
        expected = model.compress(alone[None])
        assert [each[number] for each in coded["strings"]] == [each[0] for each in expected["strings"]]
        assert torch.equal(model.decompress(**coded)["x_hat"][number], model.decompress(**expected)["x_hat"][0])


def test_damaged_strings_are_refused(tiny_weights: Path) -> None:
    """A string that no encoder wrote is an error."""
    model = VaeModel.from_weights(tiny_weights, quality=50).eval()
    coded = model.compress(to_input(picture(64, 64)))
    payloads, cuts = coded["strings"]
    for damaged in (b"", payloads[0][:-4], payloads[0] + b"1234"):
        with pytest.raises(VaecCorruptError):
            model.decompress([[damaged], cuts], coded["shape"])
    for shape in ((0, 0), (4, 0), (-4, -4), (4,), (4.0, 4.0), (3, 4)):
        with pytest.raises(VaecCorruptError):
            model.decompress([payloads, cuts], shape)
    for others in ([b""], [b"\x41"], [b"\0\0"], []):
        with pytest.raises(VaecCorruptError):
            model.decompress([payloads, others], coded["shape"])
    for strings in ([payloads], [[], []]):
        with pytest.raises(VaecCorruptError):
            model.decompress(strings, coded["shape"])


def test_pictures_that_cannot_be_coded_are_refused(tiny_weights: Path) -> None:
    """Each with a word for programs and a sentence that says what to change."""
    model = VaeModel.from_weights(tiny_weights, quality=50).eval()
    not_a_number = torch.full((1, 3, 64, 64), 0.5)
    not_a_number[0, 1, 2, 3] = float("nan")
    for x, code, words in (
        (torch.zeros(1, 3, 70, 64), "SIZE", "multiples of 16"),
        (torch.zeros(1, 3, 64, 0), "SIZE", "multiples of 16"),
        (torch.zeros(1, 1, 64, 64), "SHAPE", "must be"),
        (torch.zeros(3, 64, 64), "SHAPE", "must be"),
        (not_a_number, "NONFINITE", "NaN"),
    ):
        with pytest.raises(VaecImageError, match=words) as caught:
            model.compress(x)
        assert caught.value.code == code


def test_arguments_that_are_not_allowed_are_refused(tiny_weights: Path) -> None:
    """Densities, tunes, qualities, and checkpoints of other models."""
    model = VaeModel(TINY)
    one = torch.zeros(1, 3, 64, 64)
    for call, word in (
        (lambda: VaeModel.from_weights(tiny_weights, hyper_prior="x"), "hyper_prior"),
        (lambda: VaeModel.from_weights(tune="x"), "tune"),
        (lambda: model(one, quality=[10, 80]), "quality"),
        (lambda: model(one, quality=[]), "quality"),
        (lambda: model(one, quality=[0]), "quality"),
    ):
        with pytest.raises(VaecImageError, match=word) as caught:
            call()
        assert caught.value.code == "ARGUMENT"
    with pytest.raises(VaecModelError, match="not a checkpoint"):
        VaeModel.from_state_dict({"weight": torch.zeros(1)})


@pytest.mark.parametrize("prior", ["logistics", "bottleneck"])
def test_likelihoods_are_what_training_counts(prior: str) -> None:
    """Their bits are those of the training model, and both, rate and pictures, have gradients."""
    torch.manual_seed(0)
    model = VaeModel(TINY, quality=50, hyper_prior=prior).eval()
    x = to_input(picture(128, 64))
    with torch.no_grad():
        found = model(x)
        outcome = model.network(x, torch.tensor([49 / 99]))
    assert found["likelihoods"]["y"].shape == (1, TINY.latent_channels, 8, 4)
    assert found["likelihoods"]["z"].shape == (1, TINY.hyper_channels, 2, 1)
    for name, bits in (("y", outcome.latent_bits), ("z", outcome.hyper_bits)):
        assert float(-torch.log2(found["likelihoods"][name]).sum()) == pytest.approx(float(bits), rel=1e-4)
    assert torch.equal(found["x_hat"], outcome.pictures)
    RateDistortionLoss(lmbda=model.lmbda)(model.train()(x), x)["loss"].backward()
    of_density = model.network.hyper_prior.density.quantiles if prior == "bottleneck" else None
    missing = [name for name, each in model.named_parameters() if each.grad is None and each is not of_density]
    assert missing == []


def test_pictures_of_any_size_have_likelihoods() -> None:
    """What is shown is as large as what was given."""
    assert VaeModel(TINY).eval()(to_input(picture(70, 33)))["x_hat"].shape == (1, 3, 70, 33)


def test_quality_is_ours() -> None:
    """1 to 100, and nothing else."""
    model = VaeModel(TINY, quality=100)
    assert model.quality == 100 and model.lmbda == pytest.approx(0.6)
    for quality in (0, 101):
        with pytest.raises(VaecImageError, match="quality"):
            model.quality = quality


def test_training_with_its_loss_improves_and_exports(tmp_path: Path) -> None:
    """A few steps of compressai's loss and optimizers: a lower loss, moved quantiles, and a weights file that codes."""
    torch.manual_seed(0)
    pictures = Pictures.from_arrays([picture(128, 128, seed=seed) for seed in range(6)])
    x = pictures.batch(np.random.default_rng(0), 6, 128)
    model = VaeModel(TINY, quality=50, hyper_prior="bottleneck")
    loss_of = RateDistortionLoss(lmbda=model.lmbda)

    def measure() -> float:
        with torch.no_grad():
            return loss_of(model.eval()(x), x)["loss"].item()

    adam = {"type": "Adam", "lr": 2e-3}
    optimizer = net_aux_optimizer(model, {"net": adam, "aux": adam})
    before, quantiles = measure(), model.aux_loss().item()
    model.train()
    for _ in range(15):
        optimizer["net"].zero_grad()
        loss_of(model(x), x)["loss"].backward()
        optimizer["net"].step()
        optimizer["aux"].zero_grad()
        model.aux_loss().backward()
        optimizer["aux"].step()
    assert measure() < 0.95 * before
    assert model.aux_loss().item() < quantiles
    with pytest.raises(VaecModelError, match="no tables yet") as caught:
        model.compress(x)
    assert caught.value.code == "TABLES"
    assert model.update(force=True) is False
    assert model.update(pictures=pictures, calibration=FEW) is True
    model.export(tmp_path / "my.safetensors")
    coded = model.compress(x[:1])
    assert VaeModel.from_weights(tmp_path / "my.safetensors", quality=50).compress(x[:1])["strings"] == coded["strings"]
    codec, samples = Codec(tmp_path / "my.safetensors", "cpu"), to_samples(x[:1])
    assert codec.decode(codec.encode(samples, 50)).size == (128, 128)
    with torch.no_grad():
        next(model.network.parameters()).add_(1e-3)
    with pytest.raises(VaecModelError, match="have changed"):
        model.compress(x)
    with pytest.raises(VaecModelError, match="have changed"):
        model.export(tmp_path / "other.safetensors")


@pytest.mark.parametrize("prior", ["logistics", "bottleneck"])
def test_a_checkpoint_is_all_that_is_needed(tiny_weights: Path, tmp_path: Path, prior: str) -> None:
    """Architecture, quality, density and tables come back from a state dict, and a copy of a model codes as it does."""
    model = VaeModel.from_weights(tiny_weights, quality=30, hyper_prior=prior).eval()
    x = to_input(picture(64, 64))
    coded = model.compress(x)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    again = VaeModel.from_state_dict(torch.load(tmp_path / "model.pth", weights_only=True)).eval()
    assert again.quality == 30 and again.compress(x)["strings"] == coded["strings"]
    assert again.export(tmp_path / "again.safetensors") == model.export(tmp_path / "model.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == tiny_weights.read_bytes()
    assert copy.deepcopy(model).compress(x)["strings"] == coded["strings"]


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs this Python with one thread."""
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def run_tool(*arguments: str) -> dict[str, Any]:
    """What compressai's eval_model, with our models, writes to stdout."""
    done = run_python("-m", "vaecodec.interop.compressai", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found["results"]


@pytest.mark.parametrize("source", ["pretrained", "checkpoint"])
def test_its_tool_measures_what_files_have(tiny_weights: Path, tiny: Codec, tmp_path: Path, source: str) -> None:
    """eval_model finds the PSNR of our files within 0.01 dB and their bytes, header and index aside, within 1 %."""
    samples = picture(192, 256, seed=5)
    Image.fromarray(samples).save(tmp_path / "a.png")
    if source == "checkpoint":
        torch.save(VaeModel.from_weights(tiny_weights, quality=40).state_dict(), tmp_path / "model.pth")
        found, codec = run_tool(source, str(tmp_path), "-a", "vaecodec", "-p", str(tmp_path / "model.pth")), tiny
    else:
        found, codec = run_tool(source, str(tmp_path), "-a", "vaecodec", "-q", "40"), Codec(None, "cpu", "psnr")
    data = codec.encode(samples, 40)
    assert found["psnr-rgb"][0] == pytest.approx(pixels.psnr_db(samples, codec.decode(data, output="numpy")), abs=0.01)
    assert found["bpp"][0] == pytest.approx(8 * (len(data) - 43) / (192 * 256), rel=0.01)


def test_its_plots_read_what_its_tool_writes(tmp_path: Path) -> None:
    """A curve of two qualities, in a picture; a missing file is told in one line."""
    Image.fromarray(picture(176, 192, seed=5)).save(tmp_path / "a.png")
    results, curve = tmp_path / "results", tmp_path / "curve.png"
    run_tool("pretrained", str(tmp_path), "-a", "vaecodec", "-q", "20,60", "-d", str(results))
    (found,) = results.iterdir()
    command = "-m", "vaecodec.interop.compressai", "plot", "-o", str(curve), "-f"
    done = run_python(*command, str(found))
    assert done.returncode == 0, done.stderr
    with Image.open(curve) as image:
        assert min(image.size) > 100
    missing = run_python(*command, str(tmp_path / "none.json"))
    assert missing.returncode == 2 and missing.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("source", "option", "value", "words"),
    [
        ("pretrained", "-q", "0", "must be 1 to 100"),
        ("pretrained", "-q", "500", "must be 1 to 100"),
        ("pretrained", "-q", "x", "whole numbers"),
        ("pretrained", "-q", "40", "160"),
        ("checkpoint", "-p", "none.pth", "none.pth"),
        ("checkpoint", "-p", "text.pth", "load"),
    ],
)
def test_its_tool_says_in_one_line_what_is_wrong(
    tmp_path: Path, source: str, option: str, value: str, words: str
) -> None:
    """Qualities, files that are no checkpoints, pictures too small for its MS-SSIM: exit code 2, no traceback."""
    Image.fromarray(picture(160, 192)).save(tmp_path / "a.png")
    (tmp_path / "text.pth").write_text("no checkpoint")
    value = str(tmp_path / value) if option == "-p" else value
    done = run_python("-m", "vaecodec.interop.compressai", source, str(tmp_path), "-a", "vaecodec", option, value)
    assert (done.returncode, done.stdout) == (2, "")
    *before, last = done.stderr.splitlines()
    assert last.startswith("error: ") and words in last
    assert all(line.startswith("Using trained model") for line in before)  # compressai's own progress


@pytest.mark.parametrize("missing", ["torch", "compressai"])
def test_its_tool_says_what_to_install(missing: str) -> None:
    """One line and exit code 2 in a Python without compressai, or without torch."""
    done = run_python(
        "-c", f"import runpy, sys; sys.modules[{missing!r}] = None\n"
        "runpy.run_module('vaecodec.interop.compressai', run_name='__main__')",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and "pip install 'vaecodec[compressai]'" in done.stderr


# --- compressai's models in .vaec files -------------------------------------------------------------------------------


def untrained(name: str = "bmshj2018-hyperprior", seed: int = 0) -> Any:
    """A model of the zoo with random parameters, and tables."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = zoo.image_models[name](quality=1, pretrained=False).eval()
    model.update(force=True)
    return model


@pytest.fixture(scope="module")
def box() -> Any:
    """A container of an untrained bmshj2018-hyperprior."""
    return Container(untrained(), "bmshj2018-hyperprior", quality=1)


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "mbt2018"])
def test_a_file_gives_back_what_the_model_decodes(name: str) -> None:
    """Bit by bit, whatever the kind of model: what its own decompress makes of its own strings."""
    model, samples = untrained(name), picture(40, 64, seed=1)
    with torch.no_grad():
        padded = torch.nn.functional.pad(to_input(samples), (0, 0, 0, 24), mode="replicate")
        expected = to_samples(model.decompress(**model.compress(padded))["x_hat"])[:40]
    held = Container(model, name)
    data = held.encode(samples)
    assert np.array_equal(held.decode(data, output="numpy"), expected)
    assert np.array_equal(Container(untrained(name), name).decode(data, output="numpy"), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_formats_alpha_and_metadata_are_kept(box: Any, mode: str, tmp_path: Path) -> None:
    """The picture comes back in its size and mode, with its alpha as it was and its metadata."""
    image = Image.fromarray(picture(33, 20, len(mode)).squeeze(), mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    decoded = box.decode(box.encode(tmp_path / "a.png"))
    assert (decoded.size, decoded.mode) == (image.size, mode)
    assert decoded.getexif()[0x0112] == 6
    if mode.endswith("A"):
        assert np.array_equal(np.asarray(decoded)[..., -1], np.asarray(image)[..., -1])


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_outputs_are_those_of_the_codec(box: Any, mode: str) -> None:
    """The same pixels as an array and a tensor, laid out as `Codec.decode` does, and no other output."""
    data = box.encode(Image.fromarray(picture(33, 20, len(mode)).squeeze(), mode))
    samples = np.asarray(box.decode(data))
    assert np.array_equal(box.decode(data, output="numpy"), samples)
    assert np.array_equal(box.decode(data, output="torch"), np.moveaxis(np.atleast_3d(samples), 2, 0))
    with pytest.raises(VaecImageError, match="output") as caught:
        box.decode(data, output="bogus")
    assert caught.value.code == "ARGUMENT"


def test_damage_is_refused_wherever_it_is(box: Any) -> None:
    """No byte of a file can change, and none be missing, without an error."""
    data = box.encode(picture(48, 48))
    for place in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(VaecError):
            box.decode(bytes(damaged))
    for end in range(0, len(data), 37):
        with pytest.raises(VaecError):
            box.decode(data[:end])


def forged(data: bytes, crc: int | None = None, **changes: Any) -> bytes:
    """A file whose checksums hold and whose model, shape, strings or latents are other ones."""
    stream = container.read(data)
    (tile,) = stream.tiles
    assert tile is not None
    payload = External.unpack(tile.payload)._replace(**changes).pack()
    return container.write(
        stream.header, [tile._replace(payload=payload, content_crc=tile.content_crc if crc is None else crc)]
    )


def refused(box: Any, data: bytes) -> str:
    """The code of the error that a file is refused with."""
    with pytest.raises(VaecError) as caught:
        box.decode(data)
    return caught.value.code


def test_what_was_not_written_here_is_no_picture(box: Any) -> None:
    """Another model, other tables, another shape, other integers, other strings: each an error of its own."""
    data = box.encode(picture(48, 48))
    strings = External.unpack(container.read(data).tiles[0].payload).strings  # type: ignore[union-attr]
    assert refused(Container(untrained(seed=1), "bmshj2018-hyperprior"), data) == "MODEL_MISSING"
    assert refused(box, forged(data, tables_crc=1)) == "TABLES"
    assert refused(box, forged(data, shape=(2, 1))) == "EXTERNAL_SHAPE"
    assert refused(box, forged(data, crc=1)) == "LATENT_CRC"
    assert refused(box, forged(data, strings=strings[:1])) == "EXTERNAL"
    assert refused(box, Codec().encode(picture(48, 48), 50)) == "MODEL_MISSING"


def test_a_machine_that_computes_other_tables_is_told(box: Any) -> None:
    """The parameters are those of the file, so it is the machine that differs."""
    other = untrained()
    other.gaussian_conditional.update_scale_table([0.2, 1.0, 5.0], force=True)
    assert refused(Container(other, "bmshj2018-hyperprior"), box.encode(picture(48, 48))) == "TABLES"


def test_a_machine_that_computes_other_scales_shows_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of tables that come out otherwise are found by the integers that follow; encoders look for that, too."""
    model = untrained()
    model.g_a[-1].weight.data.mul_(300)  # or all latents would be 0, whatever their tables
    held = Container(model, "bmshj2018-hyperprior")
    data = held.encode(picture(48, 48))
    assert held.decode(data).size == (48, 48)
    conditional, original, differs = model.gaussian_conditional, model.gaussian_conditional.build_indexes, [True]
    monkeypatch.setattr(conditional, "build_indexes", lambda scales: original(scales) + 3 * differs.pop(0))
    assert refused(held, data) in ("LATENT_CRC", "EXTERNAL")
    differs[:] = [True, False]  # while it encodes, and while it decodes what it has encoded
    with pytest.raises(VaecMismatchError, match="does not decode the latents"):
        held.encode(picture(48, 48))
    assert differs == []


@pytest.mark.parametrize("changed", ["synthesis", "through .data", "tables"])
def test_a_model_that_has_changed_needs_a_new_container(changed: str) -> None:
    """The old one neither writes files that nobody can decode, nor shows pictures that nobody encoded."""
    model, samples = untrained(), picture(48, 48)
    held = Container(model, "bmshj2018-hyperprior")
    data = held.encode(samples)
    if changed == "tables":
        model.gaussian_conditional.update_scale_table([0.2, 1.0, 5.0], force=True)
    elif changed == "synthesis":
        with torch.no_grad():
            model.g_s[-1].bias.add_(0.1)
    else:
        model.g_s[-1].bias.data.add_(0.1)
    assert refused(held, data) == "TABLES"
    with pytest.raises(VaecModelError, match="make a new one") as caught:
        held.encode(samples)
    assert caught.value.code == "TABLES"
    again = Container(model, "bmshj2018-hyperprior")
    assert again.decode(again.encode(samples)).size == (48, 48)


def test_what_a_container_cannot_hold_is_told(tiny_weights: Path) -> None:
    """Names that do not fit, models without tables, models that need none."""
    with pytest.raises(VaecImageError, match="name"):
        Container(untrained(), "two words")
    with pytest.raises(VaecImageError, match=r"vaecodec\.Codec"):
        Container(VaeModel.from_weights(tiny_weights), "vaecodec")
    with pytest.raises(VaecModelError, match=r"update\(\)"):
        Container(zoo.image_models["bmshj2018-factorized"](quality=1, pretrained=False), "bmshj2018-factorized")


# --- the density, the import, the document ----------------------------------------------------------------------------


def test_the_bottleneck_is_a_density_and_its_quantiles_move_nothing() -> None:
    """Mass sums to 1, bits are those of the mass, and the auxiliary loss has a gradient for quantiles only."""
    prior = hyper_prior("bottleneck", 4)
    grid = torch.arange(-200.0, 201.0).expand(1, 4, 1, -1)
    mass = prior.probability(grid)
    assert torch.allclose(mass.sum(-1), torch.ones(1, 4, 1), atol=1e-3)
    assert torch.allclose(prior.bits(grid), -torch.log2(mass))
    prior.auxiliary_loss().backward()
    assert [name for name, each in prior.named_parameters() if each.grad is not None] == ["density.quantiles"]


def test_a_run_with_the_bottleneck_learns_resumes_and_exports(tmp_path: Path) -> None:
    """`--hyper-prior bottleneck`: steps, a checkpoint that is read again, and a weights file that codes."""
    from vaecodec.training.loop import train
    from vaecodec.training.recipe import Recipe

    (tmp_path / "photos").mkdir()
    for seed in range(3):
        Image.fromarray(picture(200, 200, seed=seed)).save(tmp_path / "photos" / f"{seed}.png")
    given: dict[str, Any] = {
        "data": tmp_path / "photos", "out": tmp_path / "run", "init": "klt", "tune": "psnr", "architecture": TINY,
        "device": "cpu", "batch": 2, "patch_px": 64, "final_patch_px": 64, "hyper_prior": "bottleneck",
    }  # fmt: skip
    train(Recipe(steps=2, **given))
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    name = "hyper_prior.density.quantiles"
    assert not torch.equal(state["model"][name], TrainingModel(TINY, "bottleneck").state_dict()[name])
    assert [group["lr"] for group in state["optimizer"]["param_groups"]][1:] == [1e-3]
    path = tmp_path / "my.safetensors"
    result = train(Recipe(steps=3, weights=path, finish_steps=0, **given), resume=True)
    assert (result.step, result.bad_steps) == (3, 0)
    codec, samples = Codec(path, "cpu"), picture(64, 64)
    assert pixels.psnr_db(samples, codec.decode(codec.encode(samples, 80), output="numpy")) > 20


def test_operators_are_declared_only_where_they_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once torchvision can be imported, nothing is declared any more; other errors of it are told."""
    declared = len(bottleneck._declared)
    bottleneck.import_compressai()
    assert len(bottleneck._declared) == declared <= 1

    def broken(name: str) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(bottleneck.importlib, "import_module", broken)
    with pytest.raises(ImportError, match="something else"):
        bottleneck.import_compressai()


@pytest.mark.parametrize("number", range(3))
def test_the_examples_of_the_document_run(
    number: int, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself, in a folder with a picture, a folder of some, and weights to start from."""
    examples = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert len(examples) == 3
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(96, 144)).save("photo.png")
    shutil.copy(tiny_weights, "start.safetensors")
    Path("photos").mkdir()
    for seed in range(2):
        Image.fromarray(picture(140, 150, seed=seed)).save(f"photos/{seed}.png")
    exec(compile(examples[number], "docs/interop.md", "exec"), {})
