"""The results of benchmarks: one JSON file per codec and data set, written row by row."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.metrics import MEASURES, Point, can_measure, is_large_enough, quality_of

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass
class Record:
    """The rows of one codec on one data set, and their file.

    Attributes:
        codec: name, version and settings; for vaecodec the settings hold the model id.
        dataset: name, sha256 and images (their names, in order); and the folder, unless the data set has a known name.
        machine: everything that times depend on.
        rows: one per picture and quality; see benchmarks/README.md for the fields.
    """

    path: Path
    codec: dict[str, Any]
    dataset: dict[str, Any]
    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The codec's name."""
        return str(self.codec["name"])

    @property
    def qualities(self) -> list[int]:
        """All qualities that were measured, in order."""
        return sorted({row["quality"] for row in self.rows})

    @property
    def is_complete(self) -> bool:
        """Whether every picture has been measured at every quality that any picture has."""
        return bool(self.rows) and len(self.rows) == len(self.dataset["images"]) * len(self.qualities)

    def missing(self, image: str, qualities: Iterable[int], measures: Sequence[str] = ()) -> list[int]:
        """The qualities at which a picture lacks a row, or a measure that is available now."""
        done = {row["quality"] for row in self.rows if row["image"] == image and not _lacks(row, measures)}
        return [quality for quality in qualities if quality not in done]

    def add(self, rows: Sequence[Row]) -> None:
        """Adds or replaces rows, in memory and on disk, so that stopping the run loses nothing."""
        new = {(row["image"], row["quality"]) for row in rows}
        self.rows = [row for row in self.rows if (row["image"], row["quality"]) not in new] + list(rows)
        head = {
            "codec": self.codec, "dataset": self.dataset, "machine": self.machine, "commit": commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        write_atomically(self.path, _one_row_a_line(head, self.rows))

    def known(self, image: str) -> dict[int, Row]:
        """The rows of a picture by quality."""
        return {row["quality"]: row for row in self.rows if row["image"] == image}

    def at(self, quality: int) -> dict[str, float]:
        """Means over the pictures at one quality: bpp, times, and measures that all pictures have; empty if none."""
        rows = [row for row in self.rows if row["quality"] == quality and row["psnr_db"] is not None]
        taken = [name for name in MEASURES if all(row.get(name) is not None for row in rows)]
        names = ("bpp", *taken, "encode_s", "decode_s") if rows else ()
        return {name: sum(row[name] for row in rows) / len(rows) for name in names}

    def curve(self, metric: str = "psnr_db") -> list[Point]:
        """The mean curve: at each quality, the means over pictures of bpp and of the metric.

        `quality_of` is applied after the mean. Pictures too small for the metric count for neither mean. Qualities
        at which only some pictures are measured are left out, because their curve would be of other pictures.
        """
        points = []
        for rows in self.measured(metric).values():
            rate, value = (sum(row[name] for row in rows) / len(rows) for name in ("bpp", metric))
            points.append(Point(rate, quality_of(metric, value)))
        return points

    def measured(self, metric: str) -> dict[int, list[Row]]:
        """By quality, the rows of all pictures that are large enough for a metric."""
        found = {}
        for quality in self.qualities:
            at_quality = [row for row in self.rows if row["quality"] == quality]
            rows = [row for row in at_quality if is_large_enough(metric, row["width"], row["height"])]
            if rows and all(row.get(metric) is not None for row in rows):
                found[quality] = rows
        return found


def open_record(
    path: Path, codec: dict[str, Any], dataset: dict[str, Any], *, threads: int | None = None, again: bool = False
) -> Record:
    """Start or continue a record; `threads` as in `machine`.

    Rows on disk are kept if codec (version, settings, model), pictures and machine are unchanged, so that all rows of
    a file match its head. Otherwise, or with `again`, they are measured again.

    Raises:
        FileExistsError: the file holds the results of another data set.
    """
    fresh = Record(path, codec, dataset, machine(threads))
    if not path.exists():
        return fresh
    old = load(path)
    if old.dataset["sha256"] != dataset["sha256"]:
        raise FileExistsError(
            f"{path} holds results of {old.dataset['name']} ({len(old.dataset['images'])} images), not of these"
            f" {len(dataset['images'])} images of {dataset['name']}: name another --out"
        )
    if again or (old.codec, old.machine) != (fresh.codec, fresh.machine):
        return fresh
    if old.dataset != dataset:  # the folder has moved
        old.dataset = dataset
        old.add([])
    return old


def load(path: Path) -> Record:
    """Read a record.

    Raises:
        KeyError: the file is not a record.
    """
    data = json.loads(path.read_text())
    return Record(path, data["codec"], data["dataset"], data["machine"], data["rows"])


def load_folder(folder: Path) -> list[Record]:
    """All records in a folder, by codec name; other JSON files are ignored."""
    return [load(path) for path in sorted(folder.glob("*.json")) if _is_record(json.loads(path.read_text()))]


def write_for_compressai(record: Record, path: Path) -> None:
    """Write the mean curve in the layout of CompressAI's `results`, for its plot tool."""
    means = [mean for quality in record.qualities if (mean := record.at(quality))]
    names = {"bpp": "bpp", "psnr-rgb": "psnr_db", "encoding_time": "encode_s", "decoding_time": "decode_s"}
    curves = {theirs: [round(mean[ours], 6) for mean in means] for theirs, ours in names.items()}
    if all(row["ms_ssim"] is not None for row in record.rows):
        of = [[row["ms_ssim"] for row in record.rows if row["quality"] == quality] for quality in record.qualities]
        curves["ms-ssim-rgb"] = [round(sum(values) / len(values), 6) for values in of]
    description = f"{record.codec['version']}, {record.dataset['name']}, means over images"
    layout = {"name": record.name, "description": description, "results": curves}
    write_atomically(path, json.dumps(layout, indent=1) + "\n")


def machine(threads: int | None = None) -> dict[str, Any]:
    """Everything that times depend on: processor, torch threads (None: the codec has its own), and versions."""
    return {
        "cpu": _processor(),
        "threads": threads,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "pillow", "numpy")},
    }


def commit(checkout: Path = ROOT) -> str | None:
    """A checkout's commit, with "-dirty" if tracked files differ from it; None outside a repository."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return result.stdout.strip() or None


def write_atomically(path: Path, text: str) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)


def _lacks(row: Row, measures: Sequence[str]) -> bool:
    return any(row.get(name) is None and can_measure(name, row["width"], row["height"]) for name in measures)


def _is_record(data: Any) -> bool:
    if not isinstance(data, dict) or not {"codec", "dataset", "machine", "rows"} <= data.keys():
        return False
    return all("quality" in row for row in data["rows"])  # other files hold other measurements


def _one_row_a_line(head: dict[str, Any], rows: Sequence[Row]) -> str:
    """JSON with one row per line, for readable diffs."""
    lines = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in head.items()]
    body = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
    return "{\n" + ",\n".join(lines) + ',\n"rows": [\n' + body + "\n]\n}\n"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} logical)" if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
