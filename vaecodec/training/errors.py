"""The error of training; a VaecError, so that the command line reports it like any other."""

from vaecodec.errors import VaecError


class TrainingError(VaecError):
    """Training cannot start or continue.

    Codes: RECIPE (a value of the recipe is not allowed), NO_PICTURES (no picture can be used), INIT (the start cannot
    be used), RUN_EXISTS (the run folder holds another run), CHECKPOINT (it cannot be read, or is for another
    network), IMPORT (a package is missing), NONFINITE (too many steps without a finite loss and gradient).
    """

    default_code = "TRAINING"
