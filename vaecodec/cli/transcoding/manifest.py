"""The manifest: the result for each picture, as JSON lines next to the .vaec files. Runs resume from it.

The folder manifest/ holds files of JSON lines; concatenated in order of their names, they are the manifest. Each file
is written once and completely, because object stores cannot append: an empty one when a run begins, others after a
number of pictures or seconds, and one at the end. Records that a killed run had not written yet are missing; their
pictures are encoded again, to the same files.
"""

import json
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Self

from vaecodec.cli.transcoding.places import Place
from vaecodec.errors import VaecError

FOLDER = "manifest"
SUFFIX = ".jsonl"

Record = dict[str, Any]
"""One line. "path": name of the picture in the source. "status": "done" or "failed".

If done: "output" (name of the .vaec file), "width", "height" (pixels), "mode", "quality", "requested_quality" (the
command's; null for auto), "model_id", "input_bytes", "output_bytes", "bpp", "psnr_db" (all samples except alpha; null
if lossless), "seconds", and "warnings" if there were any. If failed: "code" and "message". In both cases: "worker", the
machine and process.
"""


class ManifestError(VaecError):
    """An existing manifest cannot be parsed."""

    default_code = "MANIFEST"


class Manifest:
    """Collects records and writes them. Entering the context writes an empty file; leaving it writes the rest.

    Args:
        place: where the .vaec files go.
        records_each: maximum number of records per manifest file.
        seconds_each: maximum time that a record waits to be written, approximately.
    """

    def __init__(self, place: Place, *, records_each: int = 1000, seconds_each: float = 20.0) -> None:
        self.place, self.records_each, self.seconds_each = place, records_each, seconds_each
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")  # names of later runs sort later
        self._run = f"{started}-{secrets.token_hex(4)}"
        self._waiting: list[str] = []
        self._files = 0
        self._written_s = time.monotonic()

    def __enter__(self) -> Self:
        self._write()  # marks the target as ours before the first .vaec file
        return self

    def __exit__(self, *_: object) -> None:
        if self._waiting:
            self._write()

    def add(self, record: Record) -> None:
        """Adds a record, and writes the waiting ones if they are many or old; raises OSError."""
        self._waiting.append(json.dumps(record, allow_nan=False))
        if len(self._waiting) >= self.records_each or time.monotonic() - self._written_s >= self.seconds_each:
            self._write()

    def _write(self) -> None:
        text = "".join(f"{line}\n" for line in self._waiting)
        self.place.write(f"{FOLDER}/{self._run}-{self._files:08}{SUFFIX}", text.encode())
        self._waiting.clear()
        self._files += 1
        self._written_s = time.monotonic()


def read(place: Place, names: Iterable[str]) -> dict[str, Record]:
    """The last record of every picture.

    Args:
        place: where the .vaec files are.
        names: of all files there, including those of the manifest.

    Raises:
        ManifestError: a line is not a manifest record.
        OSError: a file cannot be read.
    """
    records: dict[str, Record] = {}
    for name in sorted(name for name in names if is_manifest(name)):
        for number, line in enumerate(place.read(name).decode(errors="replace").splitlines(), 1):
            try:
                record = json.loads(line)
                records[record["path"]] = record
            except (ValueError, TypeError, KeyError) as error:
                raise ManifestError(f"{name}, line {number}, is not a record with a path: {line[:80]!r}") from error
    return records


def is_manifest(name: str) -> bool:
    """Whether a file next to the .vaec files is part of the manifest."""
    return name.startswith(f"{FOLDER}/") and name.endswith(SUFFIX)
