"""The recipe of a training run: every setting in one frozen record, and the schedules that follow from it."""

from dataclasses import dataclass, field
from pathlib import Path

from vaecodec.model.architecture import HYPER_STRIDE, LATENT_STRIDE, Architecture
from vaecodec.training.degrade import Noise
from vaecodec.training.distortion import Tune
from vaecodec.training.errors import TrainingError
from vaecodec.training.priors import HYPER_PRIORS

PATCH_STEP_PX = LATENT_STRIDE * HYPER_STRIDE


@dataclass(frozen=True)
class Recipe:
    """The settings of a run. Progress (0..1) is steps over `steps`, or elapsed minutes over `minutes` without steps.

    Attributes:
        data: folder of images or tar shards of images.
        out: the run's folder: checkpoint, logs.
        weights: weights file to write at the end.
        init: klt, default, random, or the path of a weights file or of a checkpoint.
        validation: folders of pictures to measure from time to time.
        tune: distortion measure: eye, psnr, or a mix from 0 (psnr) to 1 (eye).
        degrade: degradation of the network's input, which it learns to remove, such as noise:5-25.
        architecture: for a klt or random start; other starts have their own.
        hyper_prior: density of the hyper-latents in training, logistics or bottleneck; checkpoints have their own.
        finish_steps: steps of the last stage (`finish.remove_grid`); None is as many as before it, up to its default.
        analysis_blocks: deepen the analysis to this many blocks, which change nothing at first; None keeps it.

    Raises:
        TrainingError: (RECIPE) a patch is not a positive multiple of 64 px, or `tune`, `degrade` or `hyper_prior` is
            not allowed.
    """

    data: Path
    out: Path
    weights: Path | None = None
    init: str = "default"
    validation: tuple[Path, ...] = ()
    tune: str = "eye"
    degrade: str | None = None
    architecture: Architecture = field(default_factory=Architecture)
    analysis_blocks: int | None = None
    hyper_prior: str = "logistics"
    device: str = "auto"
    minutes: float = 60.0
    steps: int | None = None
    batch: int = 8
    patch_px: int = 128
    final_patch_px: int = 192
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    clip_norm: float = 1.0
    ema_decay: float = 0.9995
    log_seconds: float = 30.0
    checkpoint_minutes: float = 4.0
    validation_minutes: float = 15.0
    max_bad_steps: int = 100
    finish_steps: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        tune_of(self.tune)
        if self.degrade is not None:
            Noise.parse(self.degrade)
        if self.hyper_prior not in HYPER_PRIORS:
            raise TrainingError(
                f"hyper_prior is {self.hyper_prior!r}, must be one of {', '.join(HYPER_PRIORS)}", code="RECIPE"
            )
        for name in ("patch_px", "final_patch_px"):
            value = getattr(self, name)
            if value < PATCH_STEP_PX or value % PATCH_STEP_PX:
                raise TrainingError(f"{name} is {value}, must be a positive multiple of {PATCH_STEP_PX}", code="RECIPE")

    @property
    def traded(self) -> Tune:
        """The distortion measure."""
        return tune_of(self.tune)

    @property
    def noise(self) -> Noise | None:
        """The degradation of the input, if any."""
        return None if self.degrade is None else Noise.parse(self.degrade)

    def progress(self, step: int, elapsed_s: float) -> float:
        """The fraction of the run that is done, 0..1 or slightly more."""
        return step / self.steps if self.steps else elapsed_s / 60 / self.minutes

    def patch_at(self, progress: float) -> int:
        """Side of the crops: larger in the second half, so that the hyperprior sees realistic surroundings."""
        return self.final_patch_px if progress >= 0.5 else self.patch_px

    def learning_rate_at(self, progress: float, step: int) -> float:
        """The learning rate: linear warm-up over the first steps, then linear decay to 1 % at the end.

        A constant rate gains little: all runs gained most while the rate fell (docs/training.md).
        """
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warmup * (0.01 + 0.99 * (1 - min(1.0, progress)))


def tune_of(text: str) -> Tune:
    """Parses a text: eye, psnr, or a number from 0 (psnr) to 1 (eye).

    Raises:
        TrainingError: (RECIPE) the text is anything else.
    """
    named = {"psnr": "0", "eye": "1"}.get(text, text)
    try:
        eye = float(named)
    except ValueError:
        eye = -1.0
    if not 0 <= eye <= 1:
        raise TrainingError(f"tune is {text!r}, must be eye, psnr or a number from 0 to 1", code="RECIPE")
    return Tune(eye)
