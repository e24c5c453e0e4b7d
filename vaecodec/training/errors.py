"""The one error of training; a VaecError, so that the command line tells of it as of any other."""

from vaecodec.errors import VaecError


class TrainingError(VaecError):
    """Training cannot start or go on.

    Codes: RECIPE (a value of the recipe is not allowed), NO_PICTURES (no picture can be used), INIT (there is nothing
    to start from), RUN_EXISTS (the run folder holds another run), CHECKPOINT (it cannot be read, or is of another
    network), IMPORT (a package is missing), NONFINITE (too many steps without a finite loss and gradient).
    """

    default_code = "TRAINING"
