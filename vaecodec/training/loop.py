"""The training loop: steps, moving average, checkpoints from which a killed run resumes, export at the end."""

import copy
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vaecodec.model.torch_engine.engine import has_fast_bfloat16
from vaecodec.training.data import Pictures
from vaecodec.training.errors import TrainingError
from vaecodec.training.export import Calibration, export
from vaecodec.training.finish import STEPS, remove_grid
from vaecodec.training.journal import Journal
from vaecodec.training.objective import Losses, TrainingModel, losses
from vaecodec.training.priors import hyper_prior_kind
from vaecodec.training.recipe import Recipe
from vaecodec.training.start import architecture_of, load_checkpoint, load_into, starting_model
from vaecodec.training.validation import psnr_db, reconstructions, validate
from vaecodec.training.workers import Workers

SHOWN_CROPS = 4
CROPS_PER_PICTURE = 16  # for calibration
QUANTILES, QUANTILES_LEARNING_RATE = (
    ".quantiles",
    1e-3,
)  # have a loss and a learning rate of their own, as in compressai


@dataclass(frozen=True)
class Status:
    """The status of a run: means over the steps since the last log line; NaN if there were none.

    Stages: "training", whose fraction done is `progress`; then "removing the grid", which counts from 0 again;
    then "writing the weights".
    """

    step: int
    progress: float
    elapsed_s: float
    loss: float
    bpp: float
    psnr_db: float
    images_per_s: float
    bad_steps: int
    stage: str = "training"


@dataclass(frozen=True)
class Result:
    """The result of a run; its time includes the last stages.

    `sha256` is the hash of the weights file, if this process wrote one.
    """

    step: int
    elapsed_s: float
    bad_steps: int
    sha256: str | None


Watch = Callable[[Status], None]


def checkpoint_path(folder: Path) -> Path:
    """The path of the checkpoint of a run."""
    return folder / "checkpoint.pt"


class Run:
    """One training run: model, moving average, optimizer and progress, saved and restored together."""

    def __init__(self, recipe: Recipe, model: TrainingModel, workers: Workers) -> None:
        self.recipe, self.workers, self.device = recipe, workers, workers.device
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model).eval()
        self.learner = workers.share_gradients(self.model)
        on_cuda = self.device.type == "cuda"
        self.bfloat16 = on_cuda or has_fast_bfloat16(self.device)  # elsewhere it is emulated, and ten times slower
        if on_cuda:
            self.learner.compile(dynamic=False)  # crops have two sizes in a run, and each gets its own kernels
        named = list(self.model.named_parameters())
        self.parameters = [parameter for name, parameter in named if not name.endswith(QUANTILES)]
        quantiles = [parameter for name, parameter in named if name.endswith(QUANTILES)]
        groups = [{"params": self.parameters}] + [{"params": quantiles, "lr": QUANTILES_LEARNING_RATE}] * bool(
            quantiles
        )
        self.optimizer = torch.optim.Adam(groups, recipe.learning_rate, betas=(0.9, 0.99), fused=True)
        self.step, self.bad_steps, self.elapsed_s = 0, 0, 0.0

    @classmethod
    def resume(cls, recipe: Recipe, workers: Workers) -> "Run":
        """Restores a run from its last checkpoint.

        Raises:
            TrainingError: (CHECKPOINT) the checkpoint cannot be read.
        """
        path = checkpoint_path(recipe.out)
        state = load_checkpoint(path)
        model = TrainingModel(architecture_of(state), hyper_prior_kind(state["model"]))
        run = cls(recipe, model, workers)
        load_into(run.model, state["model"], path)
        load_into(run.average, state["average"], path)
        run.optimizer.load_state_dict(state["optimizer"])
        run.step, run.elapsed_s = state["step"], state["elapsed_s"]
        run.bad_steps = state.get("bad_steps", 0)
        return run

    def save(self) -> None:
        """Replaces the checkpoint atomically: a run killed while writing keeps the previous one."""
        path = checkpoint_path(self.recipe.out)
        temporary = path.with_suffix(".tmp")
        state = {
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step, "elapsed_s": self.elapsed_s,
            "bad_steps": self.bad_steps, "architecture": asdict(self.model.vae.arch),
        }  # fmt: skip
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power failure could leave the new name without the new bytes
        os.replace(temporary, path)

    def learn(self, x: Tensor, level: Tensor, learning_rate: float, *, seen: Tensor | None = None) -> Losses | None:
        """Takes one optimizer step; returns None if loss or gradient is not finite (the step is skipped and counted).

        Args:
            x: crops [B, 3, H, W] in 0..1.
            level: quality levels [B] in 0..1.
            learning_rate: for this step.
            seen: the codec's input instead of x, if it is to learn to restore.

        Raises:
            TrainingError: (NONFINITE) this happened more often than the recipe allows.
        """
        self.optimizer.param_groups[0]["lr"] = learning_rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            outcome = losses(self.learner, x, level, tune=self.recipe.traded, seen=seen)
        self.optimizer.zero_grad(set_to_none=True)
        (outcome.total + self.model.hyper_prior.auxiliary_loss()).backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.step += 1
        if not self.workers.everywhere(torch.isfinite(outcome.total) & torch.isfinite(norm)):
            self.bad_steps += 1
            if self.bad_steps > self.recipe.max_bad_steps:
                raise TrainingError(
                    f"{self.bad_steps} steps without a finite loss and gradient, the last of them step {self.step}; "
                    f"at most {self.recipe.max_bad_steps} are allowed: lower the learning rate and resume",
                    code="NONFINITE",
                )
            return None
        self.optimizer.step()
        decay = min(self.recipe.ema_decay, self.step / (9 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return outcome


def train(recipe: Recipe, *, resume: bool = False, watch: Watch | None = None) -> Result:
    """Runs a recipe to its end, from its start or from the checkpoint in its folder, and writes the weights file.

    Args:
        recipe: the run. With a checkpoint, the network is the checkpoint's and `init` has no effect.
        resume: continue from the checkpoint, if there is one.
        watch: called after every step, only in the first process.

    Raises:
        TrainingError: see `TrainingError`.
        VaecModelError: the device or the initial weights cannot be used.
    """
    if checkpoint_path(recipe.out).exists() and not resume:
        raise TrainingError(f"{recipe.out} holds a run already: resume it, or choose another output", code="RUN_EXISTS")
    pictures = Pictures(recipe.data, recipe.final_patch_px)
    workers = Workers.join(recipe.device)
    try:
        if checkpoint_path(recipe.out).exists():
            run = Run.resume(recipe, workers)
        else:
            torch.manual_seed(recipe.seed)
            run = Run(recipe, starting_model(recipe, pictures), workers)
        result = _Session(run, pictures, watch).finish()
        workers.wait()
        return result
    finally:
        workers.leave()


class _Session:
    """The work of one process on a run, from start or resumption to the end."""

    def __init__(self, run: Run, pictures: Pictures, watch: Watch | None) -> None:
        self.run, self.pictures = run, pictures
        self.leads = run.workers.rank == 0
        self.watch = watch if self.leads else None
        recipe = run.recipe
        if self.leads:
            recipe.out.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(recipe.out if self.leads else None)
        seed = np.random.SeedSequence([recipe.seed, run.step, run.workers.rank])
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(int(self.rng.integers(1 << 31)))
        self.sums, self.sums_since = np.zeros(4), time.monotonic()

    def finish(self) -> Result:
        """Takes all remaining steps, then exports."""
        run, recipe = self.run, self.run.recipe
        if self.leads and self.pictures.skipped:
            warnings.warn(self.pictures.skipped_text(), UserWarning, stacklevel=3)
        used = asdict(replace(recipe, architecture=run.model.vae.arch))
        self._write(event="start", recipe={name: str(value) for name, value in used.items()},
                    pictures=len(self.pictures.pictures), skipped=self.pictures.skipped)  # fmt: skip
        self._steps()
        digest, start_s = None, time.monotonic()
        if self.leads:
            self._log()
            self._measure()
            run.save()
            if recipe.weights:
                steps = min(STEPS, run.step) if recipe.finish_steps is None else recipe.finish_steps
                remove_grid(
                    run.average, self.pictures, self.rng, patch_px=recipe.final_patch_px, steps=steps,
                    noise=recipe.noise, watch=lambda progress: self._report_stage("removing the grid", progress),
                )  # fmt: skip
                self._write(stage="removing the grid", finish_steps=steps)
                self._report_stage("writing the weights", 0.0)
                digest = export(
                    run.average,
                    self.pictures,
                    recipe.weights,
                    self._calibration(),
                    eye=recipe.traded.eye,
                    restores=recipe.noise is not None,
                )
            self._write(event="end", sha256=digest)
        self.journal.close()
        return Result(run.step, run.elapsed_s + time.monotonic() - start_s, run.bad_steps, digest)

    def _steps(self) -> None:
        run, recipe = self.run, self.run.recipe
        log, save = _Every(recipe.log_seconds), _Every(60 * recipe.checkpoint_minutes)
        measure, last = _Every(60 * recipe.validation_minutes), time.monotonic()
        while (progress := run.workers.from_first(recipe.progress(run.step, run.elapsed_s))) < 1:
            self._step(progress)
            now = time.monotonic()
            run.elapsed_s, last = run.elapsed_s + now - last, now
            if not self.leads:
                continue
            if self.watch:
                self.watch(self._status())
            if log.is_due():
                self._log()
            if save.is_due():
                run.save()
            if measure.is_due():
                self._measure()

    def _report_stage(self, stage: str, progress: float) -> None:
        """Reports the stages after training, which also take minutes."""
        if self.watch:
            self.watch(replace(self._status(), stage=stage, progress=progress))

    def _step(self, progress: float) -> None:
        run, recipe = self.run, self.run.recipe
        x = self.pictures.batch(self.rng, recipe.batch, recipe.patch_at(progress)).to(run.device)
        level = torch.from_numpy(self.rng.random(recipe.batch, dtype=np.float32)).to(run.device)
        seen = recipe.noise.apply(x) if recipe.noise else None
        outcome = run.learn(x, level, recipe.learning_rate_at(progress, run.step), seen=seen)
        if outcome:
            self.sums += [float(outcome.total.detach()), float(outcome.bpp), float(outcome.mse), 1]

    def _status(self) -> Status:
        run, recipe = self.run, self.run.recipe
        steps = self.sums[3]
        loss, bpp, mse = (self.sums[:3] / steps).tolist() if steps else (float("nan"),) * 3
        images = steps * recipe.batch * run.workers.count / max(time.monotonic() - self.sums_since, 1e-9)
        psnr = psnr_db(mse) if steps else mse
        progress = recipe.progress(run.step, run.elapsed_s)
        return Status(run.step, progress, run.elapsed_s, loss, bpp, psnr, images, run.bad_steps)

    def _log(self) -> None:
        if self.sums[3]:
            status = self._status()
            self._write(
                loss=round(status.loss, 4), bpp=round(status.bpp, 4), psnr_db=round(status.psnr_db, 3),
                steps_per_s=round(status.images_per_s / self.run.recipe.batch / self.run.workers.count, 2),
                images_per_s=round(status.images_per_s, 2), bad_steps=status.bad_steps,
            )  # fmt: skip
        self.sums[:], self.sums_since = 0, time.monotonic()

    def _measure(self) -> None:
        run, recipe = self.run, self.run.recipe
        for folder in recipe.validation:
            self.journal.curve(run.step, run.elapsed_s, folder.name, validate(run.average, folder))
        if self.journal.shows_pictures:
            crops = self.pictures.batch(np.random.default_rng(0), SHOWN_CROPS, recipe.final_patch_px)
            self.journal.pictures(run.step, reconstructions(run.average, crops.to(run.device)))

    def _calibration(self) -> Calibration:
        """The calibration, with crops no larger than the pictures, and no more of them than the content needs."""
        most = CROPS_PER_PICTURE * len(self.pictures.pictures)
        return Calibration(
            crops=min(Calibration.crops, most), hyper_crops=min(Calibration.hyper_crops, most),
            patch_px=min(Calibration.patch_px, self.run.recipe.final_patch_px),
        )  # fmt: skip

    def _write(self, **row: object) -> None:
        self.journal.write(self.run.step, self.run.elapsed_s, **row)


class _Every:
    """A timer that is due once per interval."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True
