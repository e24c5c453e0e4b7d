"""Laws of training: what is read, what a run starts from, what survives a kill, and that the export keeps the rate."""

import copy
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import picture
from PIL import Image

import vaecodec
from vaecodec.cli import main
from vaecodec.cli.train import _describe
from vaecodec.errors import VaecModelError
from vaecodec.model import weights
from vaecodec.model.architecture import HYPER_BANDS, Architecture
from vaecodec.model.coding import BITS_PER_DISTORTION
from vaecodec.model.engine import Engine
from vaecodec.model.torch_engine import engine
from vaecodec.tiling.tile import encode_latents
from vaecodec.training import bottleneck, distortion, finish, loop, objective, previews
from vaecodec.training.data import WINDOW_PX, Pictures
from vaecodec.training.errors import TrainingError
from vaecodec.training.export import Calibration, export
from vaecodec.training.journal import Journal
from vaecodec.training.loop import Run, checkpoint_path, train
from vaecodec.training.objective import TrainingModel
from vaecodec.training.priors import gaussian_bits
from vaecodec.training.recipe import Recipe
from vaecodec.training.start import deepen, from_checkpoint, from_weights, load_checkpoint, starting_model
from vaecodec.training.validation import estimate, reconstructions, validate
from vaecodec.training.workers import Workers

ROOT = Path(__file__).parents[1]
TINY = Architecture(
    latent_channels=8, hyper_channels=4, analysis_channels=12, synthesis_channels=8, synthesis_blocks=1,
    render_channels=8, condition_channels=4, prior_channels=8, scale_channels=8, quality_anchors=3,
)  # fmt: skip
ALONE = Workers(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four pictures, 160 x 144 px."""
    folder = tmp_path_factory.mktemp("photos")
    for n in range(4):
        Image.fromarray(picture(144, 160, seed=n)).save(folder / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def base(photos: Path, tiny_weights: Path) -> Recipe:
    """A run of a second or so; tests replace what they are about."""
    return Recipe(photos, Path(), None, str(tiny_weights), device="cpu", steps=2, batch=2, patch_px=64,
                  final_patch_px=64, warmup_steps=10)  # fmt: skip


@pytest.fixture(scope="module")
def trained(base: Recipe, tmp_path_factory: pytest.TempPathFactory) -> TrainingModel:
    """The tiny model after 100 steps: its densities have met the latents that they are for."""
    recipe = dataclasses.replace(base, out=tmp_path_factory.mktemp("trained"), steps=100, batch=4, tune="psnr")
    train(recipe)
    return from_checkpoint(checkpoint_path(recipe.out)).eval()


@pytest.fixture
def recipe(base: Recipe, tmp_path: Path) -> Recipe:
    """The same in a folder of its own."""
    return dataclasses.replace(base, out=tmp_path / "run")


def to_input(samples: np.ndarray) -> torch.Tensor:
    """[1, 3, H, W] in 0..1."""
    return torch.from_numpy(samples.copy()).permute(2, 0, 1)[None].float() / 255


def log_of(recipe: Recipe) -> list[dict[str, Any]]:
    """The run's JSON log."""
    return [json.loads(line) for line in (recipe.out / "log.jsonl").read_text().splitlines()]


# --- data -------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_named_and_skipped(tmp_path: Path) -> None:
    """Damaged, small and 16-bit pictures and damaged shards are skipped by name, with the reason; the rest counts."""
    Image.fromarray(picture(80, 80)).save(tmp_path / "good.png")
    Image.fromarray(picture(80, 80, 1)[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(picture(63, 200)).save(tmp_path / "small.png")
    Image.fromarray(np.zeros((80, 80), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nonsense")
    (tmp_path / "broken.tar").write_bytes(b"nonsense" * 100)
    (tmp_path / "folder.png").mkdir()
    pictures = Pictures(tmp_path, 64)
    assert [tuple(found.shape) for found in pictures.pictures] == [(80, 80, 3)] * 2
    assert {Path(name).name for name in pictures.skipped} == {
        "small.png", "deep.png", "broken.jpg", "broken.tar", "folder.png"
    }  # fmt: skip
    text = pictures.skipped_text()
    assert "5 skipped" in text and "small.png (200 x 63 px, must have at least 64 x 64)" in text
    assert "and 3 more" in pictures.skipped_text(names=2)


def test_a_folder_without_a_usable_picture_is_an_error_that_says_why(tmp_path: Path) -> None:
    """Nothing to train on is an error, and it names what was there."""
    Image.fromarray(picture(40, 40)).save(tmp_path / "small.png")
    with pytest.raises(TrainingError, match=r"no readable picture.*small\.png \(40 x 40") as caught:
        Pictures(tmp_path, 64)
    assert caught.value.code == "NO_PICTURES"


def test_shards_are_read_and_their_lists_obeyed(tmp_path: Path) -> None:
    """Pictures of a tar count, but not those that the list beside it marks as not free."""
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            data = io.BytesIO()
            Image.fromarray(picture(64, 64)).save(data, "PNG")
            member = tarfile.TarInfo(name)
            member.size = data.tell()
            data.seek(0)
            tar.addfile(member, data)
    assert len(Pictures(tmp_path, 64).pictures) == 2
    (tmp_path / "shard.json").write_text(json.dumps([{"name": "a.png"}, {"name": "b.png", "free": 0}]))
    assert len(Pictures(tmp_path, 64).pictures) == 1


def test_of_a_large_picture_a_window_is_kept(tmp_path: Path) -> None:
    """Memory is bounded: no side longer than the window."""
    Image.new("RGB", (WINDOW_PX + 200, 80)).save(tmp_path / "wide.png")
    assert Pictures(tmp_path, 64).pictures[0].shape == (80, WINDOW_PX, 3)


def test_crops_are_of_the_size_asked_for_and_in_range() -> None:
    """Whatever the augmentation does, a batch is [N, 3, P, P] in 0..1, and not all crops are the same."""
    pictures = Pictures.from_arrays([picture(70, 90)])
    batch = pictures.batch(np.random.default_rng(0), 20, 64)
    assert batch.shape == (20, 3, 64, 64)
    assert batch.min() >= 0
    assert batch.max() <= 1
    assert len({crop.sum().item() for crop in batch}) > 10


# --- objective --------------------------------------------------------------------------------------------------------


def test_a_grid_raises_the_excess_and_nothing_else_does() -> None:
    """Means of 16x16 patches have steps at their borders only; the original, and an even blur of it, have no excess."""
    x = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)).cumsum(2).cumsum(3) / 1024
    means = torch.nn.functional.avg_pool2d(x, 16).repeat_interleave(16, 2).repeat_interleave(16, 3)
    assert torch.equal(distortion.grid_excess(x, x), torch.zeros(2))
    assert distortion.grid_excess(x * 0.5, x).max() < 1e-6
    assert distortion.grid_excess((x + 3 * means) / 4, x).min() > 0.9
    assert distortion.border_ratio(means + 0.01 * x).min() > 10


def test_the_last_stage_takes_a_grid_away_and_changes_the_filter_only(trained: TrainingModel) -> None:
    """A filter made to add steps at borders takes a tenth of the grid back at least; rates stay bit for bit."""
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.vae.synthesis.deblocking.ramp.sub_(0.3)
    pictures = Pictures.from_arrays([picture(128, 128, seed=n) for n in range(8)])
    x = pictures.batch(np.random.default_rng(9), 8, 64)
    before, kept = _shown(model, x), {name: value.clone() for name, value in model.state_dict().items()}
    finish.remove_grid(model, pictures, np.random.default_rng(1), patch_px=64, steps=60)
    after = _shown(model, x)
    assert torch.equal(before.latent_bits, after.latent_bits)
    assert _grid(after.pictures, x) < 0.9 * _grid(before.pictures, x)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, kept[name])}
    assert changed
    assert all(name.startswith("vae.synthesis.deblocking.") for name in changed)


@pytest.fixture
def same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports that leave the latents in their order, so that weights can be compared."""
    monkeypatch.setattr(previews, "base_first", lambda engine, _: torch.arange(engine.arch.latent_channels))


@pytest.mark.usefixtures("same_order")
def test_a_run_ends_with_that_stage(base: Recipe, tmp_path: Path) -> None:
    """The weights file has another filter than the checkpoint; what the stage leaves alone is the same."""
    recipe = dataclasses.replace(base, out=tmp_path / "run", weights=tmp_path / "new.safetensors")
    train(recipe)
    exported = engine.load(weights.load(recipe.weights), "cpu").vae.synthesis
    kept = from_checkpoint(checkpoint_path(recipe.out)).vae.synthesis
    assert (exported.deblocking.ramp - kept.deblocking.ramp).abs().max() > 5e-4
    assert (exported.body_in.weight - kept.body_in.weight).abs().max() < 1e-3


@torch.no_grad()
def _shown(model: TrainingModel, x: torch.Tensor) -> objective.Outcome:
    return model(x, torch.full((len(x),), 0.5))


def _grid(pictures: torch.Tensor, x: torch.Tensor) -> float:
    return float((distortion.border_ratio(pictures) / distortion.border_ratio(x) - 1).mean(1).abs().mean())


# --- recipe -----------------------------------------------------------------------------------------------------------


def test_schedules_follow_progress() -> None:
    """Steps count where they are given, else minutes; warm-up, then linearly down to 1 %; large crops at the end."""
    recipe = Recipe(Path(), Path(), minutes=10)
    assert recipe.progress(7, 300) == 0.5
    assert dataclasses.replace(recipe, steps=70).progress(7, 300) == 0.1
    rates = [recipe.learning_rate_at(progress, 10**6) / recipe.learning_rate for progress in (0, 0.5, 1, 1.01)]
    assert rates == pytest.approx([1, 0.505, 0.01, 0.01])
    assert recipe.learning_rate_at(0, 0) == pytest.approx(recipe.learning_rate / recipe.warmup_steps)
    assert [recipe.patch_at(progress) for progress in (0.49, 0.5)] == [128, 192]


@pytest.mark.parametrize("patch_px", [0, 63, 100])
def test_crops_must_fit_the_hyper_latents(patch_px: int) -> None:
    """A patch that is no positive multiple of 64 is refused, with its value."""
    with pytest.raises(TrainingError, match=f"patch_px is {patch_px}, must be a positive multiple of 64") as caught:
        Recipe(Path(), Path(), patch_px=patch_px)
    assert caught.value.code == "RECIPE"


def test_the_document_shows_this_recipe() -> None:
    """The table of docs/training.md has the numbers of the code."""
    recipe, text = Recipe(Path(), Path()), (ROOT / "docs" / "training.md").read_text()
    for shown in (
        f"MSE * (1 + {distortion.GRID_WEIGHT:g} * grid excess)",
        f"{distortion.EYE_MSE:g} * lambda * 255² * MSE",
        f"{distortion.EYE_SSIMULACRA2:g} * price * S + {distortion.EYE_MS_SSIM:g} * price' * (1 - MS-SSIM)",
        "price from {:g} to {:g}, price' from {:g} to {:g}".format(
            *distortion.SSIMULACRA2_PRICE, *distortion.MS_SSIM_PRICE
        ),
        f"level - {distortion.EYE_BEND:g} * level * (1 - level) - {distortion.EYE_LOW:g} * (1 - level)^6",
        f"{distortion.LAMBDA_MIN:.5f} at quality 1 to {distortion.LAMBDA_MAX:.2f} at quality 100",
        f"gradient norm clipped at {recipe.clip_norm:g}",
        f"{recipe.warmup_steps} steps of linear warm-up",
        f"{recipe.batch} of {recipe.patch_px} x {recipe.patch_px} px a step; {recipe.final_patch_px} x",
        f"decay {recipe.ema_decay:g}",
        f"after {recipe.max_bad_steps} of them",
        f"{finish.STEPS} steps of {finish.BATCH} crops of {recipe.final_patch_px} x",
        f"price of {finish.GRID_PRICE:g} % of squared error for 1 %",
        f"saves more than {BITS_PER_DISTORTION:g} bits for each squared step",
    ):
        assert shown in text, shown


def test_the_bottleneck_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where compressai cannot be imported, it is an error that tells what to install; other densities are refused."""

    def missing(name: str) -> None:
        raise ImportError(name)

    with monkeypatch.context() as patched:
        patched.setattr(bottleneck.importlib, "import_module", missing)
        with pytest.raises(TrainingError, match=r"pip install .vaecodec\[compressai\]") as caught:
            TrainingModel(TINY, "bottleneck")
    assert caught.value.code == "IMPORT"
    with pytest.raises(TrainingError, match="logistics, bottleneck"):
        Recipe(Path(), Path(), hyper_prior="histogram")


# --- start ------------------------------------------------------------------------------------------------------------


@pytest.mark.engines("torch")
@pytest.mark.usefixtures("same_order")
def test_weights_become_a_model_with_the_same_table_indexes(
    tiny: vaecodec.Codec, tiny_weights: Path, tmp_path: Path
) -> None:
    """Exporting what was reconstructed from a weights file gives the same table indexes within one."""
    before = tiny.engine
    pictures = Pictures.from_arrays([picture(128, 128, seed=n) for n in range(4)])
    export(
        from_weights(weights.load(tiny_weights)), pictures, tmp_path / "again.safetensors", Calibration(8, 8, 1, 128)
    )
    after = engine.load(weights.load(tmp_path / "again.safetensors"), "cpu")
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.integers(-3, 4, (2, before.arch.hyper_channels, 4, 4)))
    for quality in (1, 50, 100):
        indexes = before.scales.table_indexes(z, quality).int()
        assert (indexes - after.scales.table_indexes(z, quality).int()).abs().max() <= 1
        assert len(indexes.unique()) > 5


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 2), (2, 5), (3, 4)])
def test_a_deeper_start_computes_the_same(old: int, new: int) -> None:
    """Blocks that have learned nothing yet change nothing, not even which blocks come before the gain."""
    torch.manual_seed(0)
    model = TrainingModel(dataclasses.replace(TINY, analysis_blocks=old)).eval()
    torch.nn.init.normal_(model.vae.analysis.gain.log_gain)
    x, level = torch.rand(1, 3, 64, 64), torch.tensor([0.3])
    before = model.vae.analysis(x, level)
    deepen(model, new)
    assert len(model.vae.analysis.blocks) == model.vae.arch.analysis_blocks == new
    torch.testing.assert_close(model.vae.analysis(x, level), before, rtol=1e-5, atol=1e-5)


def test_a_start_is_not_made_less_deep() -> None:
    """Blocks that have learned something are not thrown away."""
    with pytest.raises(TrainingError, match="analysis_blocks is 1, must be at least the 2 of the start") as caught:
        deepen(TrainingModel(dataclasses.replace(TINY, analysis_blocks=2)), 1)
    assert caught.value.code == "INIT"


# --- quantization -----------------------------------------------------------------------------------------------------


def test_training_chooses_symbols_as_encoders_do() -> None:
    """A symbol goes nearer to zero exactly where bits plus weighted squared error are less there."""
    generator = torch.Generator().manual_seed(3)
    residual = 4 * torch.randn(5000, generator=generator)
    log_scale = torch.empty(5000).uniform_(-2.5, 2, generator=generator)
    symbols = objective.quantize(residual, log_scale)

    def cost(x: torch.Tensor) -> torch.Tensor:
        return gaussian_bits(x, log_scale) + BITS_PER_DISTORTION * (residual - x).square()

    nearest = residual.round()
    lower = nearest - nearest.sign()
    assert torch.equal(symbols, torch.where(cost(lower) < cost(nearest) - 1e-4, lower, symbols))
    assert torch.equal(symbols, torch.where(cost(nearest) < cost(lower) - 1e-4, nearest, symbols))
    assert 0.01 < (symbols != nearest).float().mean() < 0.5


def test_the_prior_is_found_again_in_the_tables(tiny_weights: Path) -> None:
    """The density fitted to tables without context costs 3 % more bits than their own mean at most."""
    stored = weights.load(tiny_weights)
    prior, tables = from_weights(stored).hyper_prior, stored.hyper_tables
    assert set(tables.radius) == {63}
    pmf = torch.from_numpy(tables.counts[stored.hyper_indexes[:HYPER_BANDS], :127].mean(0))
    pmf /= pmf.sum(1, keepdim=True)
    values = torch.arange(-63, 64, dtype=torch.float32).expand(1, len(pmf), 1, -1)
    with torch.no_grad():
        spent = (pmf * prior.bits(values)[0, :, 0]).sum()
    assert float(spent) == pytest.approx(float(-(pmf * pmf.log2()).sum()), rel=0.03)


def test_a_klt_start_is_a_codec_and_noise_is_not(recipe: Recipe) -> None:
    """With the same architecture, the linear transform decodes at least 10 dB better than random weights."""
    pictures = Pictures(recipe.data, 64)
    arch = from_weights(weights.load(Path(recipe.init))).vae.arch
    psnr = {}
    for init in ("klt", "random"):
        chosen = dataclasses.replace(recipe, init=init, architecture=arch)
        psnr[init] = estimate(starting_model(chosen, pictures).eval(), to_input(picture(128, 128, seed=9)), 1.0)[1]
    assert psnr["klt"] > psnr["random"] + 10


def test_a_start_that_is_not_there_is_an_error(recipe: Recipe) -> None:
    """An unknown start is refused by its name, and a file that is no checkpoint by what it lacks."""
    pictures = Pictures.from_arrays([picture(64, 64)])
    with pytest.raises(TrainingError, match="init is 'nowhere'") as caught:
        starting_model(dataclasses.replace(recipe, init="nowhere"), pictures)
    assert caught.value.code == "INIT"
    recipe.out.mkdir()
    path = recipe.out / "other.pt"
    torch.save({"model": {}}, path)
    with pytest.raises(TrainingError, match="lacks average, elapsed_s") as caught:
        starting_model(dataclasses.replace(recipe, init=str(path)), pictures)
    assert caught.value.code == "CHECKPOINT"


# --- export -----------------------------------------------------------------------------------------------------------


def coded_bits(coder: Engine, samples: np.ndarray, quality: int) -> int:
    """Bits of the payload that the coder makes of a picture."""
    tile, _ = encode_latents(coder, coder.analyze(samples, quality), quality)
    return 8 * len(tile.payload)


@pytest.mark.parametrize("qualities", [0, 4])
def test_exported_bits_are_the_training_estimate(trained: TrainingModel, tmp_path: Path, qualities: int) -> None:
    """With tables made of the densities alone, the coder spends what training estimates, within 1 %; never 1 % more."""
    pictures = Pictures.from_arrays([picture(144, 160, seed=n) for n in range(4)])
    export(trained, pictures, tmp_path / "x.safetensors", Calibration(8, 8, qualities, 128))
    coder = engine.load(weights.load(tmp_path / "x.safetensors"), "cpu")
    for quality in (10, 50, 90):
        estimated, coded = 0.0, 0
        for seed in (100, 101):
            samples = picture(512, 512, seed=seed)
            estimated += 512**2 * estimate(trained, to_input(samples), (quality - 1) / 99)[0]
            coded += coded_bits(coder, samples, quality)
        assert (0.99 if qualities == 0 else 0.9) < coded / estimated < 1.01


def test_half_precision_does_not_move_psnr(trained: TrainingModel, tmp_path: Path) -> None:
    """Stored as float16, the transforms decode within 0.01 dB of what was trained, which itself stays as it was."""
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    export(trained, Pictures.from_arrays([picture(128, 128)]), tmp_path / "x.safetensors", Calibration(2, 2, 1, 128))
    after = from_weights(weights.load(tmp_path / "x.safetensors")).eval()
    for level in (0.0, 0.5, 1.0):
        x = to_input(picture(256, 256, seed=100))
        assert estimate(after, x, level)[1] == pytest.approx(estimate(trained, x, level)[1], abs=0.01)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


# --- the run ----------------------------------------------------------------------------------------------------------


def test_a_killed_run_loses_no_more_than_its_last_interval(recipe: Recipe) -> None:
    """After kill -9 at any moment the checkpoint is whole, at most one interval old, and the run goes on from there."""
    script = (
        "import sys; from pathlib import Path; from vaecodec.training.loop import train;"
        "from vaecodec.training.recipe import Recipe; data, out, init = sys.argv[1:];"
        "train(Recipe(Path(data), Path(out), None, init, device='cpu', steps=10**6, batch=1, patch_px=64,"
        "final_patch_px=64, checkpoint_minutes=0), watch=lambda status: print(status.step, flush=True))"
    )
    arguments = [sys.executable, "-c", script, str(recipe.data), str(recipe.out), recipe.init]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        while int(process.stdout.readline()) < 5:  # an empty line, of a process that died, is no number
            pass
        process.send_signal(signal.SIGKILL)
        told = [5, *map(int, process.stdout.read().split())]
    state = load_checkpoint(checkpoint_path(recipe.out))
    assert state["step"] >= told[-1] - 1
    again = dataclasses.replace(recipe, steps=state["step"] + 2)
    assert train(again, resume=True).step == state["step"] + 2
    assert [row["step"] for row in log_of(recipe) if row.get("event") == "start"] == [0, state["step"]]


def test_a_resumed_run_is_the_one_that_was_saved(recipe: Recipe) -> None:
    """Model, average, optimizer and counters come back as they were, also from a checkpoint of before `bad_steps`."""
    run = Run(recipe, from_weights(weights.load(Path(recipe.init))), ALONE)
    for _ in range(2):
        assert run.learn(torch.rand(1, 3, 64, 64), torch.rand(1), 1e-3)
    run.elapsed_s = 12.5
    recipe.out.mkdir()
    run.save()
    assert not list(recipe.out.glob("*.tmp"))
    path = checkpoint_path(recipe.out)
    torch.save({key: value for key, value in load_checkpoint(path).items() if key != "bad_steps"}, path)
    again = Run.resume(recipe, ALONE)
    assert (again.step, again.elapsed_s, again.bad_steps) == (2, 12.5, 0)
    for name in ("model", "average"):
        pairs = zip(getattr(run, name).parameters(), getattr(again, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    moments = [run.optimizer.state_dict()["state"], again.optimizer.state_dict()["state"]]
    assert moments[0] and all(torch.equal(moments[0][n]["exp_avg"], moments[1][n]["exp_avg"]) for n in moments[0])


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_for_training_on_processors_that_have_it(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """Where it is emulated, a step takes ten times longer than in float32."""
    monkeypatch.setattr(loop, "has_fast_bfloat16", lambda device: fast)
    run, seen = Run(recipe, TrainingModel(TINY), ALONE), []
    run.model.vae.analysis.blocks[0].mix_in.register_forward_hook(lambda *found: seen.append(found[2].dtype))
    assert run.learn(torch.rand(1, 3, 64, 64), torch.rand(1), 1e-3)
    assert seen == [torch.bfloat16 if fast else torch.float32]


def test_a_checkpoint_without_architecture_is_of_the_default_one(recipe: Recipe) -> None:
    """The first checkpoints name no architecture; one that does not fit the default is refused, not misread."""
    run = Run(recipe, from_weights(weights.load(Path(recipe.init))), ALONE)
    recipe.out.mkdir()
    run.save()
    path = checkpoint_path(recipe.out)
    assert Architecture(**load_checkpoint(path)["architecture"]) == run.model.vae.arch
    torch.save({key: value for key, value in load_checkpoint(path).items() if key != "architecture"}, path)
    with pytest.raises(TrainingError, match="belongs to another network") as caught:
        Run.resume(recipe, ALONE)
    assert caught.value.code == "CHECKPOINT"


def test_a_damaged_checkpoint_is_an_error(recipe: Recipe) -> None:
    """Bytes that are no checkpoint are refused by name, not unpickled."""
    recipe.out.mkdir()
    checkpoint_path(recipe.out).write_bytes(b"nonsense")
    with pytest.raises(TrainingError, match=r"cannot read the checkpoint .*checkpoint\.pt") as caught:
        train(recipe, resume=True)
    assert caught.value.code == "CHECKPOINT"


def test_steps_that_are_not_finite_change_nothing_and_are_bounded(recipe: Recipe) -> None:
    """A step without a finite loss is skipped and counted; one more than allowed ends the run."""
    run = Run(dataclasses.replace(recipe, max_bad_steps=1), from_weights(weights.load(Path(recipe.init))), ALONE)
    before = [parameter.clone() for parameter in (*run.model.parameters(), *run.average.parameters())]
    bad = torch.full((1, 3, 64, 64), torch.nan)
    assert run.learn(bad, torch.rand(1), 1e-3) is None
    assert (run.step, run.bad_steps) == (1, 1)
    after = (*run.model.parameters(), *run.average.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with pytest.raises(TrainingError, match=r"2 steps without a finite loss.*1 are allowed") as caught:
        run.learn(bad, torch.rand(1), 1e-3)
    assert caught.value.code == "NONFINITE"


def test_training_learns(recipe: Recipe) -> None:
    """The loss over all qualities is lower after a hundred steps than before, on a picture that was not trained on.

    From a random start: from the linear codec, which is the best of its kind, a hundred steps are no way at all.
    """
    recipe = dataclasses.replace(recipe, init="random", architecture=TINY, steps=100, batch=4, tune="psnr")
    torch.manual_seed(recipe.seed)
    before = TrainingModel(TINY).eval()
    train(recipe)
    after = from_checkpoint(checkpoint_path(recipe.out)).eval()
    x = to_input(picture(256, 256, seed=100))
    for level in (0.2, 0.5, 0.8):
        (old_bpp, old_psnr, _), (bpp, psnr, _) = (estimate(model, x, level) for model in (before, after))
        assert bpp / old_bpp < 2 ** ((psnr - old_psnr) / 3)
        assert psnr > old_psnr + 3


def test_a_run_is_not_overwritten_by_another(recipe: Recipe) -> None:
    """A folder with a checkpoint is refused unless the run is resumed."""
    recipe.out.mkdir()
    checkpoint_path(recipe.out).touch()
    with pytest.raises(TrainingError, match="holds a run already") as caught:
        train(recipe)
    assert caught.value.code == "RUN_EXISTS"


# --- what a run tells -------------------------------------------------------------------------------------------------


class Board:
    """Stands for TensorBoard's writer."""

    def __init__(self, folder: str) -> None:
        self.scalars: dict[str, float] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        BOARDS.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name] = value

    def add_images(self, name: str, pictures: torch.Tensor, step: int) -> None:
        self.shapes[name] = tuple(pictures.shape)

    def close(self) -> None:
        self.scalars["closed"] = 1


BOARDS: list[Board] = []


def test_a_run_tells_of_itself(recipe: Recipe, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log, TensorBoard and watcher get loss, rate, PSNR and speed; the curve rises with quality; pictures are shown."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Board))
    seen = []
    train(dataclasses.replace(recipe, validation=(photos,), log_seconds=0), watch=seen.append)
    rows = log_of(recipe)
    assert [status.step for status in seen] == [1, 2]
    assert seen[-1].progress == 1
    steps = [row for row in rows if "loss" in row]
    assert len(steps) == 2 and {"loss", "bpp", "psnr_db", "images_per_s", "steps_per_s", "bad_steps"} <= steps[0].keys()
    curve = next(row["curve"] for row in rows if row.get("event") == "validation")
    assert [point["bpp"] for point in curve] == sorted(point["bpp"] for point in curve)
    assert rows[-1]["event"] == "end"
    board = BOARDS.pop()
    assert board.scalars["train/loss"] == steps[-1]["loss"]
    assert board.scalars[f"validation/{photos.name}/psnr_db/level_1.0"] == curve[-1]["psnr_db"]
    assert board.shapes["reconstructions"] == (4, 3, 64, 256)
    assert board.scalars["closed"]


def test_the_last_stages_are_shown_and_counted(recipe: Recipe, trained: TrainingModel, tmp_path: Path) -> None:
    """From nothing to all of the steps that were asked for, then the writing; none, if none are."""
    seen: list[loop.Status] = []
    asked = dataclasses.replace(recipe, weights=tmp_path / "a.safetensors", finish_steps=3)
    result = train(asked, watch=seen.append)
    stages = [status.stage for status in seen]
    assert list(dict.fromkeys(stages)) == ["training", "removing the grid", "writing the weights"]
    progress = [status.progress for status in seen if status.stage == "removing the grid"]
    assert progress == sorted(progress) and progress[-1] == pytest.approx(1) and progress[0] < 0.1
    assert {"stage": "removing the grid", "finish_steps": 3}.items() <= log_of(recipe)[-2].items()
    assert result.elapsed_s > seen[0].elapsed_s
    model = copy.deepcopy(trained)
    before = copy.deepcopy(model.state_dict())
    finish.remove_grid(model, Pictures.from_arrays([picture(128, 128)]), np.random.default_rng(1), patch_px=64, steps=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "removing the grid" in _describe(seen[-2]) and "loss" in _describe(seen[0])


def test_without_tensorboard_there_is_only_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard is optional, and a process that does not lead writes nothing at all."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    journal = Journal(tmp_path)
    journal.write(1, 60.0, loss=0.5)
    assert not journal.shows_pictures
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1, "minutes": 1.0, "loss": 0.5}
    Journal(None).write(1, 60.0, loss=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_validation_takes_pictures_of_any_size(trained: TrainingModel, photos: Path) -> None:
    """Pictures are cut to multiples of 64 px; the first reconstruction column is the picture itself."""
    assert len(validate(trained, photos, images=1)) == 6
    x = to_input(picture(64, 64))
    assert torch.equal(reconstructions(trained, x)[..., :64], x)


# --- the command ------------------------------------------------------------------------------------------------------


def run_cli(*arguments: object) -> Result:
    """Runs the command line."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_user_fine_tunes_on_own_pictures(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """The example of the documentation: train, encode with the new weights; decoding without them names their id."""
    out, coded = tmp_path / "my.safetensors", tmp_path / "0.vaec"
    done = run_cli("--json", "train", "--data", photos, "--init", tiny_weights, "--steps", 3, "--batch", 2,
                   "--patch", 64, "--device", "cpu", "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["steps"] == 3 and weights.load(out).model_id.hex() == told["model_id"]
    assert log_of(Recipe(photos, tmp_path / "my.run"))[-1]["sha256"] == told["sha256"]

    assert run_cli("encode", photos / "0.png", coded, "--model", out, "-q", 30, "--device", "cpu").exit_code == 0
    assert vaecodec.info(coded).header.model_id.hex() == told["model_id"]
    with pytest.raises(VaecModelError, match=told["model_id"]) as caught:
        vaecodec.decode(coded, model=tiny_weights, device="cpu")
    assert caught.value.code == "MODEL_MISSING"
    assert vaecodec.decode(coded, model=out, device="cpu").size == (160, 144)


def test_wrong_usage_is_told_before_anything_is_written(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """Every refusal has exit code 2, says what is wrong, and leaves nothing behind."""
    out, empty, there = tmp_path / "x.safetensors", tmp_path / "empty", tmp_path / "there.safetensors"
    empty.mkdir()
    there.touch()
    cases = {
        "cannot be combined": ["--data", photos, "--out", out, "--steps", 1, "--minutes", 1],
        "must end in .safetensors": ["--data", photos, "--out", tmp_path / "x.pt"],
        "exists: choose another name": ["--data", photos, "--out", there],
        "holds no readable picture": ["--data", empty, "--out", out],
        "(160 x 144 px, must have at least 192 x 192)": ["--data", photos, "--out", out],
        "must be a positive multiple of 64": ["--data", photos, "--out", out, "--patch", 100],
        "init is 'nowhere'": ["--data", photos, "--out", out, "--patch", 64, "--init", "nowhere"],
    }
    for message, arguments in cases.items():
        refused = run_cli("train", *arguments)
        assert refused.exit_code == 2, refused.output
        assert message in " ".join(refused.output.split()), refused.output
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "there.safetensors"}


def test_skipped_pictures_are_told(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """The command warns of the pictures that it leaves out, by name, and goes on."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "good.png").write_bytes((photos / "0.png").read_bytes())
    (data / "bad.png").write_bytes(b"nonsense")
    done = run_cli("train", "--data", data, "--init", tiny_weights, "--steps", 1, "--batch", 1, "--patch", 64,
                   "--device", "cpu", "--out", tmp_path / "x.safetensors")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "warning: 1 skipped: " in done.stderr and "bad.png (cannot be read" in done.stderr


def test_on_a_terminal_a_bar_tells_how_it_goes(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step, loss, rate, PSNR and images per second stand on stderr while a terminal is there to show them."""
    from rich.console import Console

    monkeypatch.setattr("vaecodec.cli.train._is_terminal", lambda: True)
    shown = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=shown, force_terminal=True, width=120))
    done = run_cli("train", "--data", photos, "--init", tiny_weights, "--steps", 2, "--batch", 1, "--patch", 64,
                   "--device", "cpu", "--out", tmp_path / "x.safetensors")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert all(word in shown.getvalue() for word in ("step 2: loss ", " bpp, ", " dB, ", " images/s"))


@pytest.mark.slow
@pytest.mark.skipif("VAECODEC_TORCHRUN" not in os.environ, reason="starts torchrun: set VAECODEC_TORCHRUN=1")
def test_several_processes_make_one_run(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """Started by torchrun, two processes share gradients; one of them writes log and weights."""
    out = tmp_path / "x.safetensors"
    arguments = ["--data", photos, "--init", tiny_weights, "--steps", 3, "--batch", 1, "--patch", 64, "--out", out]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "vaecodec"]
    done = subprocess.run(
        [str(part) for part in (*command, "--json", "train", "--device", "cpu", *arguments)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["steps"] for line in done.stdout.splitlines()] == [3]
    assert [row["event"] for row in log_of(Recipe(photos, tmp_path / "x.run")) if "event" in row] == ["start", "end"]
    assert weights.load(out).model_id
