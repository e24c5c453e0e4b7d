"""The training loop: steps, moving average, checkpoints that a killed run resumes from, a JSON log."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vaecodec.model.transforms import Architecture
from vaecodec.training.data import Pictures
from vaecodec.training.objective import TrainingModel, losses
from vaecodec.training.recipe import Recipe
from vaecodec.training.validation import validate


class TrainingError(RuntimeError):
    """Training cannot go on: too many steps without a finite loss and gradient."""


class Run:
    """One training run: model, moving average, optimizer and progress, saved and restored together."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        self.model = TrainingModel(Architecture()).to(self.device, memory_format=torch.channels_last)
        self.average = TrainingModel(Architecture()).to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), recipe.learning_rate, betas=(0.9, 0.99), fused=True)
        self.step, self.bad_steps, self.elapsed_s = 0, 0, 0.0

    @property
    def checkpoint(self) -> Path:
        return self.recipe.out / "checkpoint.pt"

    def start_from(self, state: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(state)
        self.average.load_state_dict(state)

    def save(self) -> None:
        """Replace the checkpoint atomically: a run killed while writing keeps the one before."""
        temporary = self.checkpoint.with_suffix(".tmp")
        state = {
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step, "elapsed_s": self.elapsed_s,
        }  # fmt: skip
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]

    def log(self, **row: object) -> None:
        with open(self.recipe.out / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, "minutes": round(self.elapsed_s / 60, 2), **row}) + "\n")

    def learn(self, x: torch.Tensor, level: torch.Tensor, learning_rate: float) -> tuple[float, float, float] | None:
        """One optimizer step; None where loss or gradient is not finite (the step is skipped and counted)."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with torch.autocast(self.device.type, torch.bfloat16):
            total, bpp, mse = losses(self.model, x, level)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        if not torch.isfinite(total) or not torch.isfinite(norm):
            self.bad_steps += 1
            if self.bad_steps > self.recipe.max_bad_steps:
                raise TrainingError(f"{self.bad_steps} steps without a finite loss, the last at {self.step}")
            return None
        self.optimizer.step()
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return float(total.detach()), float(bpp), float(mse)


def train(recipe: Recipe, *, resume: bool = False) -> Run:
    """Run the recipe to its end, from the start or from the checkpoint in its folder."""
    recipe.out.mkdir(parents=True, exist_ok=True)
    run = Run(recipe)
    if resume and run.checkpoint.exists():
        run.resume()
    elif recipe.init != "random":
        run.start_from(torch.load(recipe.init, weights_only=True))
    pictures = Pictures(recipe.data, recipe.final_patch_px)
    run.log(event="start", recipe={k: str(v) for k, v in asdict(recipe).items()}, pictures=len(pictures.pictures))
    _loop(run, pictures)
    return run


def _loop(run: Run, pictures: Pictures) -> None:
    recipe, rng = run.recipe, np.random.default_rng([run.recipe.seed, run.step])
    last = saved = validated = shown = time.monotonic()
    sums = np.zeros(4)
    while (progress := run.elapsed_s / 60 / recipe.minutes) < 1:
        x = pictures.batch(rng, recipe.batch, recipe.patch_at(progress)).to(run.device)
        level = torch.from_numpy(rng.random(recipe.batch, dtype=np.float32)).to(run.device)
        outcome = run.learn(x, level, recipe.learning_rate_at(progress, run.step))
        if outcome:
            sums += [*outcome, 1]
        run.step += 1
        now = time.monotonic()
        run.elapsed_s, last = run.elapsed_s + now - last, now
        if now - shown > 30 and sums[3]:
            total, bpp, mse = sums[:3] / sums[3]
            run.log(loss=round(total, 4), bpp=round(bpp, 4), psnr_db=round(-10 * np.log10(mse), 3),
                    steps_per_s=round(sums[3] / (now - shown), 2), bad_steps=run.bad_steps)  # fmt: skip
            sums[:], shown = 0, now
        if now - saved > recipe.checkpoint_minutes * 60:
            run.save()
            saved = now
        if recipe.validation and now - validated > recipe.validation_minutes * 60:
            run.log(event="validation", curve=validate(run.average, recipe.validation))
            validated = now
    run.save()
