"""Checks this installation against the conformance vectors: files whose picture, or whose error, is known.

They are in the installed package, or in tests/conformance of a checkout, whose README describes them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vaecodec.codec import Codec
from vaecodec.errors import VaecError, VaecMismatchError, VaecModelError
from vaecodec.format import sources


class Agreement(NamedTuple):
    """How a decoded picture differs from the expected one: the largest difference in levels, the number of samples."""

    largest_difference: int
    differing_samples: int
    samples: int


def folder() -> Path:
    """The folder of the vectors, in the installed package or in a checkout."""
    inside = Path(__file__).parents[1] / "conformance"
    return inside if inside.exists() else Path(__file__).parents[2] / "tests" / "conformance"


def manifest() -> dict[str, Any]:
    """The expected results: `model_id`, `format`, and the dicts `valid` and `invalid` by vector name.

    Raises:
        VaecModelError: (CONFORMANCE) the manifest is missing.
    """
    try:
        found: dict[str, Any] = json.loads((folder() / "manifest.json").read_text())
    except OSError as error:
        raise VaecModelError(f"the conformance vectors are not installed: {error}", code="CONFORMANCE") from error
    return found


def check_valid(codec: Codec, name: str, expected: dict[str, Any]) -> Agreement:
    """Decodes one valid vector and compares size, mode, metadata and pixels.

    Args:
        codec: with the weights that the manifest names.
        name: of the vector.
        expected: its entry in the manifest.

    Raises:
        VaecMismatchError: (CONFORMANCE) the result differs from the manifest, or the vector is not the published one.
        VaecError: the vector does not decode.
    """
    data = _content(f"{name}.vaec", expected["sha256"])
    _content(f"{name}.png", expected["png_sha256"])
    metadata = {key: hashlib.sha256(item).hexdigest() for key, item in sources.info(data).metadata.items()}
    decoded = codec.decode(data)
    with Image.open(folder() / "vectors" / f"{name}.png") as reference:
        for what, is_now, wanted in (
            ("size", decoded.size, reference.size),
            ("mode", decoded.mode, reference.mode),
            ("metadata", metadata, expected["metadata"]),
        ):
            if is_now != wanted:
                raise _disagreement(f"{what} is {is_now}, must be {wanted}")
        difference = np.abs(np.subtract(np.asarray(decoded), np.asarray(reference), dtype=np.int16))
    found = Agreement(int(difference.max()), int(np.count_nonzero(difference)), difference.size)
    if "largest_difference" not in expected:
        return Agreement(0, 0, difference.size)
    for what, limit in (("largest_difference", "levels"), ("differing_samples", "samples")):
        if getattr(found, what) > expected[what]:
            raise _disagreement(f"{what} is {getattr(found, what)} {limit}, must be at most {expected[what]}")
    return found


def check_invalid(codec: Codec, name: str, expected: dict[str, Any]) -> None:
    """Decodes one vector that must be refused.

    Args:
        codec: as in `check_valid`.
        name: of the vector.
        expected: its entry in the manifest.

    Raises:
        VaecMismatchError: (CONFORMANCE) it decodes, is refused with another error, or is not the published vector.
    """
    data, wanted = _content(f"{name}.vaec", expected["sha256"]), f"{expected['error']} {expected['code']}"
    try:
        codec.decode(data)
    except VaecError as error:
        found = f"{type(error).__name__} {error.code}"
        if found != wanted:
            raise _disagreement(f"the error is {found} ({error}), must be {wanted}") from error
    else:
        raise _disagreement(f"it decodes, must be refused with {wanted}")


def check_all(codec: Codec) -> str:
    """Checks every vector and returns a summary.

    Raises:
        VaecModelError: (CONFORMANCE) the vectors are missing, or were made with other weights.
        VaecMismatchError: (CONFORMANCE) some vectors disagree; the message names each of them and the reason.
    """
    expected, failures, agreements = manifest(), list[str](), list[Agreement]()
    if codec.model and (model_id := codec.engine.model_id.hex()) != expected["model_id"]:
        message = f"the vectors were made with the model {expected['model_id']}, this is {model_id}"
        raise VaecModelError(message, code="CONFORMANCE")
    for name, facts in expected["valid"].items():
        try:
            agreements.append(check_valid(codec, name, facts))
        except VaecError as error:
            failures.append(f"{name}: {error}")
    for name, facts in expected["invalid"].items():
        try:
            check_invalid(codec, name, facts)
        except VaecError as error:
            failures.append(f"{name}: {error}")
    if failures:
        count = len(expected["valid"]) + len(expected["invalid"])
        raise VaecMismatchError(f"{len(failures)} of {count} vectors: {'; '.join(failures)}", code="CONFORMANCE")
    differing, samples = (sum(getattr(a, name) for a in agreements) for name in ("differing_samples", "samples"))
    return (
        f"{len(agreements)} vectors decode ({differing} of {samples} samples differ),"
        f" {len(expected['invalid'])} are refused as they must"
    )


def _content(file_name: str, sha256: str) -> bytes:
    try:
        data = (folder() / "vectors" / file_name).read_bytes()
    except OSError as error:
        raise _disagreement(f"{file_name} cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise _disagreement(f"{file_name} is not the published file: its SHA-256 differs from the manifest's")
    return data


def _disagreement(message: str) -> VaecMismatchError:
    return VaecMismatchError(message, code="CONFORMANCE")
