"""The train command: options to a recipe, a progress bar, a report. Everything else is in `vaecodec.training`."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaecodec.cli.batch import Console, Report, exit_code, printable
from vaecodec.cli.options import console_options, positive
from vaecodec.cli.streams import is_terminal
from vaecodec.errors import VaecError

if TYPE_CHECKING:
    from vaecodec.training.loop import Result, Status
    from vaecodec.training.recipe import Recipe

WEIGHTS_SUFFIX = ".safetensors"
RUN_SUFFIX = ".run"
USAGE_CODES = {"RECIPE", "NO_PICTURES", "INIT", "RUN_EXISTS"}
EXAMPLES = """\b
Examples:
  vaecodec train --data my_photos --init default --minutes 30 --out my.safetensors
  vaecodec train --data my_photos --minutes 60 --out my.safetensors --resume
  torchrun --nproc-per-node 4 -m vaecodec train --data photos --init klt --minutes 600 --out new.safetensors
"""

folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(epilog=EXAMPLES)
@click.option(
    "--data", type=folder, required=True, help="Train on this folder of pictures, or of tar files of pictures."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="PATH",
    help="Write the weights to PATH (.safetensors); checkpoint and logs go into a folder next to it, ending in .run.",
)
@click.option(
    "--init",
    default="default",
    show_default=True,
    metavar="START",
    help="Start from klt, default (the built-in weights), random, a weights file or a checkpoint.pt.",
)
@click.option(
    "--minutes", type=positive, metavar="NUMBER", help="Total length of the run, resumed parts included. [60]"
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Length of the run in steps instead of minutes.")
@click.option("--resume", is_flag=True, help="Continue from the run's checkpoint, if there is one.")
@click.option("--device", default="auto", show_default=True, help="Train on auto, cpu, cuda, cuda:1, ...")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Crops per step in each process. [8]")
@click.option(
    "--patch",
    type=click.IntRange(min=64),
    metavar="PX",
    help="Side of the crops, a multiple of 64; 64 px more in the second half. [128]",
)
@click.option(
    "--validation", type=folder, multiple=True,
    help="Measure rate, PSNR and SSIMULACRA2 on these pictures from time to time; may be given several times.",
)  # fmt: skip
@click.option(
    "--tune", metavar="TUNE", help="Optimize for eye (visual quality), psnr, or a mix from 0 (psnr) to 1 (eye). [eye]"
)
@click.option(
    "--degrade", metavar="KIND",
    help="Train to restore: noise:5-25 adds Gaussian noise of 5 to 25 levels to the input.",
)  # fmt: skip
@click.option(
    "--analysis-blocks", type=click.IntRange(1, 32), metavar="N", help="Deepen the analysis of the start to N blocks."
)
@click.option(
    "--hyper-prior", type=click.Choice(["logistics", "bottleneck"]),
    help="Density of the hyper-latents in training: a mixture of logistics, or compressai's bottleneck. [logistics]",
)  # fmt: skip
@click.option("--learning-rate", type=positive, metavar="NUMBER", help="Peak learning rate of Adam. [0.001]")
@click.option(
    "--finish-steps", type=click.IntRange(min=0), metavar="N",
    help="Steps of the last stage, after the --minutes, which trains the deblocking filter; 0 skips it. [200, or as"
    " many as were trained]",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed for crops and noise. [1]")
@console_options
@click.pass_context
def train(ctx: click.Context, /, data: Path, out: Path, resume: bool, **given: Any) -> None:  # fmt: skip
    """Train the network, or fine-tune it on your own pictures, and write a weights file.

    Continue a stopped or killed run with --resume; at most the last four minutes are lost.
    """
    if given["minutes"] and given["steps"]:
        raise click.UsageError("--minutes and --steps cannot be combined: give only one")
    if out.suffix != WEIGHTS_SUFFIX:
        raise click.BadParameter(f"{out} must end in {WEIGHTS_SUFFIX}", param_hint="--out")
    if out.exists() and not resume:
        raise click.BadParameter(f"{out} exists: choose another name, or give --resume", param_hint="--out")
    from vaecodec.training.loop import train as run

    console = ctx.ensure_object(Console)
    label = {"path": str(out)}
    try:
        with _warnings_to(console), _progress(console) as watch:
            result = run(_recipe(data, out, given), resume=resume, watch=watch)
    except VaecError as error:
        if error.code in USAGE_CODES:
            raise click.UsageError(str(error)) from error
        console.fail(label, error)
        ctx.exit(exit_code([error], 1))
    if result.sha256 is not None:  # with torchrun, one process writes and reports
        console.report(label, _report(out, result), is_answer=False, warned=())


def _recipe(data: Path, out: Path, given: dict[str, Any]) -> "Recipe":
    from vaecodec.training.recipe import PATCH_STEP_PX, Recipe

    chosen = {name: value for name, value in given.items() if value is not None}
    if patch_px := chosen.pop("patch", None):
        chosen |= {"patch_px": patch_px, "final_patch_px": patch_px + PATCH_STEP_PX}
    return Recipe(data, out.with_suffix(RUN_SUFFIX), out, **chosen)


def _report(out: Path, result: "Result") -> Report:
    facts = {
        "output": str(out),
        "model_id": (result.sha256 or "")[:8],
        "sha256": result.sha256,
        "steps": result.step,
        "minutes": round(result.elapsed_s / 60, 2),
        "bad_steps": result.bad_steps,
    }
    text = f"{printable(str(out))}: model {facts['model_id']} after {result.step} steps, {facts['minutes']} minutes"
    return Report("done", text, facts)


@contextmanager
def _warnings_to(console: Console) -> Iterator[None]:
    """Prints warnings at once: a run may take days."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: console.say(f"warning: {message}")
        yield


@contextmanager
def _progress(console: Console) -> Iterator["Callable[[Status], None] | None"]:
    """A bar on stderr, on a terminal only."""
    if console.is_quiet or console.is_json or console.hides_progress or not _is_terminal():
        yield None
        return
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}")
    with Progress(BarColumn(), text, TimeRemainingColumn(), console=RichConsole(stderr=True)) as bar:
        task = bar.add_task("reading the pictures", total=1.0)
        yield lambda status: bar.update(task, completed=status.progress, description=_describe(status))


def _is_terminal() -> bool:
    return is_terminal(sys.stderr)


def _describe(status: "Status") -> str:
    if status.stage != "training":
        return f"step {status.step}, done; {status.stage}"
    bad = f", {status.bad_steps} bad" if status.bad_steps else ""
    return (
        f"step {status.step}: loss {status.loss:.3f}, {status.bpp:.3f} bpp, {status.psnr_db:.2f} dB, "
        f"{status.images_per_s:.1f} images/s{bad}"
    )
