"""The long form: many pictures under every setting, the oracle, the wrong builds; a JSON record of it.

Usage: `PYTHONPATH=tests python -m exactness.driver [--python PATH ...] [--pictures N] [--folder FOLDER] [--out FILE]`.
PATH is the interpreter of another environment, with another torch: `python -m venv E && E/bin/pip install torch==2.5.0
numpy pillow constriction safetensors`, then `--python E/bin/python`.
Exit code 1 if a latent differs, pixels leave their tolerance, the control shows nothing, or a wrong build passes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exactness import native, oracle
from exactness.builds import builds
from exactness.pictures import pictures
from exactness.probe import items_of
from exactness.settings import THOROUGH, Environment, diagonal, rest_of_environments
from vaecodec import Codec
from vaecodec.errors import VaecModelError
from vaecodec.format import container
from vaecodec.format.records import TileMode
from vaecodec.model.native_engine.binding import is_available
from vaecodec.model.torch_engine.engine import ExactScales

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "results" / "reliability" / "exactness.json"
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "valid"
ORACLE_INPUTS = 1000
TOLERANCE_LEVELS, TOLERANCE_SHARE = 1, 0.001

Row = dict[str, Any]


@dataclass
class Comparison:
    """All settings against the first.

    Attributes:
        settings: how many were compared, and of how many files each.
        latent_hashes, latent_differences: hashes of latents compared, and how many were not the first setting's.
        row_hashes, row_differences: the same of table rows alone and in batches, contiguous and channels-last.
        control_hashes, control_differences: the same of a float32 network, and of files of one tile; control_files:
            files of which it gave more than one hash; control_field_hashes: how many it gave of a field of noise.
        largest_pixel_difference: levels. worst_file_share, largest_share: of a file's or of all samples under one
            setting, how many differ.
    """

    settings: int
    files: int
    latent_hashes: int = 0
    latent_differences: int = 0
    row_hashes: int = 0
    row_differences: int = 0
    control_hashes: int = 0
    control_differences: int = 0
    control_files: int = 0
    control_field_hashes: int = 0
    largest_pixel_difference: int = 0
    worst_file_share: float = 0.0
    largest_share: float = 0.0
    by_setting: list[Row] = field(default_factory=list)


def write_files(codec: Codec, folder: Path, source: Path, count: int) -> list[int]:
    """Encode pictures that take one learned tile into a folder, with their decoded pixels; returns samples a file."""
    samples = []
    for name, picture in pictures(source, count):
        quality = 1 + 61 * len(samples) % 100
        data = codec.encode(picture, quality)
        if [tile.mode for tile in container.read(data).tiles if tile] != [TileMode.LEARNED]:
            continue
        decoded = codec.decode(data, output="numpy")
        path = folder / f"{len(samples):04} {name}.vaec"
        path.write_bytes(data)
        np.save(path.with_suffix(".npy"), decoded)
        samples.append(decoded.size)
        if len(samples) == count:
            break
    return samples


def probe(python: str, environment: Environment, folder: Path, callers: Sequence[str] = ()) -> list[Row]:
    """What one process made of all files, a row a caller's setting; all settings if none is named."""
    # Threads that wait must sleep: on a busy machine they would take each other's processors, for minutes.
    threads = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    paths = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    command = [python, "-m", "exactness.probe", str(folder), *callers]
    process = subprocess.run(
        command, env={**os.environ, **threads, **paths, **environment}, stdout=subprocess.PIPE, text=True, check=True
    )
    return [{"environment": environment} | json.loads(line) for line in process.stdout.splitlines()]


def compare(rows: Sequence[Row], samples: Sequence[int]) -> Comparison:
    """Count what differs from the first row; `samples` says how many each file has."""
    first, result = rows[0], Comparison(len(rows), len(samples))
    controls = [row["control"] for row in rows if row["control"]]
    result.control_hashes = sum(map(len, controls))
    result.control_differences = sum(_differ(control, controls[0]) for control in controls)
    result.control_field_hashes = len({row["field_control"] for row in rows} - {None})
    result.control_files = sum(len(set(hashes)) > 1 for hashes in zip(*controls, strict=True))
    for row in rows:
        shares = [n / size for n, size in zip(row["differing_samples"], samples, strict=True)]
        told = {name: row[name] for name in ("environment", "torch", "numpy", "instructions", "caller", "seconds")} | {
            "latent_differences": _differ(row["latents"], first["latents"]),
            "control_differences": _differ(row["control"], first["control"]) if row["control"] else None,
            "largest_pixel_difference": max(row["largest_difference"]),
            "differing_share": sum(row["differing_samples"]) / sum(samples),
            "worst_file_share": max(shares),
        }
        result.latent_hashes += len(row["latents"])
        result.latent_differences += told["latent_differences"]
        if row["rows"]:
            result.row_hashes += len(row["rows"]) + 1
            result.row_differences += _differ(row["rows"], [hashes[:1] for hashes in first["rows"]])
            result.row_differences += row["field_rows"] != first["field_rows"]
        result.largest_pixel_difference = max(result.largest_pixel_difference, told["largest_pixel_difference"])
        result.largest_share = max(result.largest_share, told["differing_share"])
        result.worst_file_share = max(result.worst_file_share, told["worst_file_share"])
        result.by_setting.append(told)
    return result


def compare_native(rows: Sequence[Row], first: Row, samples: Sequence[int]) -> Row:
    """The native engine's settings against torch's first: integers are its own, pixels near it, and all alike.

    What encoders compute is alike but where they analyze in bfloat16, and there.

    Args:
        rows: of `native.observe`.
        first: torch's, with table rows.
        samples: how many each file has.
    """
    told = ("instructions", "threads", "seconds")
    encoders = {native.analyzes_in_bfloat16(row): row["encoded"] for row in reversed(rows)}
    return {
        "settings": len(rows), "files": len(samples), "latent_hashes": sum(len(row["latents"]) for row in rows),
        "latent_differences": sum(_differ(row["latents"], first["latents"]) for row in rows),
        "row_differences": sum(row["field_rows"] != first["field_rows"] for row in rows),
        "pixel_differences": sum(_differ(row["pixels"], rows[0]["pixels"]) for row in rows),
        "encoder_differences": sum(
            _differ(row["encoded"], encoders[native.analyzes_in_bfloat16(row)]) for row in rows
        ),
        "largest_pixel_difference": max(max(row["largest_difference"]) for row in rows),
        "worst_file_share": max(
            n / size for row in rows for n, size in zip(row["differing_samples"], samples, strict=True)
        ),
        "by_setting": [{name: row[name] for name in told} for row in rows],
    }  # fmt: skip


def wrong_builds_refused(scales: ExactScales) -> tuple[int, int]:
    """How many of the wrong builds the self-test refuses, and how many there are."""
    refused = 0
    for build in builds():
        altered = ExactScales(scales.stored, torch.device("cpu"))
        build.alter(altered)
        try:
            altered.self_test()
        except VaecModelError:
            refused += 1
    return refused, len(builds())


def failures(record: Row) -> list[str]:
    """Which promises the record breaks."""
    found, (refused, tried) = record["settings"], record["wrong_builds_refused"]
    broken = {
        "latents differ": found["latent_differences"] > 0,
        "table rows differ": found["row_differences"] > 0,
        "the float32 control shows nothing": found["control_field_hashes"] < 2,
        "pixels differ by more than a level": found["largest_pixel_difference"] > TOLERANCE_LEVELS,
        "too many samples differ": found["worst_file_share"] > TOLERANCE_SHARE,
        "sums differ from int64": any(layer["differences"] for layer in record["oracle"]),
        "a sum exceeds its bound": any(layer["largest_sum"] > layer["proved_bound"] for layer in record["oracle"]),
        "a wrong build passes": refused < tried,
    }
    if "native" in record:
        ours = record["native"]
        integers, floats = ("latent_differences", "row_differences"), ("pixel_differences", "encoder_differences")
        broken |= {
            "integers of the native engine differ": any(ours[name] for name in integers),
            "the native engine has other bits elsewhere": any(ours[name] for name in floats),
            "its pixels differ by more than a level": ours["largest_pixel_difference"] > TOLERANCE_LEVELS,
            "too many of its samples differ": ours["worst_file_share"] > TOLERANCE_SHARE,
        }
    return [name for name, is_broken in broken.items() if is_broken]


def run(codec: Codec, options: argparse.Namespace) -> Iterator[Row]:
    """Everything; yields the record as it is after each process, so that a run that is stopped leaves what it found."""
    start, scales = time.monotonic(), codec.engine.scales
    record = {
        "model_id": codec.engine.model_id.hex(), "date": date.today().isoformat(), "processor": _processor(),
        "python": platform.python_version(), "photographs": options.folder.is_dir(),
        "oracle": [oracle.judge(scales, n, ORACLE_INPUTS)._asdict() for n in range(len(scales.stored.layers))],
        "wrong_builds_refused": wrong_builds_refused(scales),
    }  # fmt: skip
    plans = [(python, environment) for python in (sys.executable, *options.python) for environment in ({}, *diagonal())]
    plans += [(sys.executable, environment) for environment in rest_of_environments()]
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), list[Row]()
        samples = write_files(codec, folder, options.folder, options.pictures)
        for number, (python, environment) in enumerate(plans, 1):
            rows += probe(python, environment, folder, THOROUGH if environment else ())
            if number == 1 and is_available():
                record["native"] = compare_native([*native.observe(items_of(folder))], rows[0], samples)
            print(f"{number} of {len(plans)}: {environment}, torch {rows[-1]['torch']}", file=sys.stderr, flush=True)
            yield record | {
                "processes": f"{number} of {len(plans)}", "minutes": round((time.monotonic() - start) / 60, 1),
                "torch": sorted({row["torch"] for row in rows}), "numpy": sorted({row["numpy"] for row in rows}),
                "settings": asdict(compare(rows, samples)),
            }  # fmt: skip


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], help="interpreter with another torch; repeatable")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=PHOTOGRAPHS, help="photographs; without any, all are synthetic")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for record in run(Codec(None, "cpu", engine="torch"), options):
        record["failures"] = failures(record)
        partial = options.out.with_name(options.out.name + ".partial")
        partial.write_text(_text(record))
        partial.replace(options.out)
    print({name: value for name, value in record["settings"].items() if name != "by_setting"})
    print("broken: " + ", ".join(record["failures"]) if record["failures"] else "all promises kept")
    return bool(record["failures"])


def _differ(found: Sequence[object], expected: Sequence[object]) -> int:
    return sum(a != b for a, b in zip(found, expected, strict=True))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} logical)" if names else platform.machine()


def _text(record: Row) -> str:
    """JSON whose differences can be read: a setting a line."""
    settings = record["settings"]
    lines = ",\n".join("   " + json.dumps(row) for row in settings["by_setting"])
    text = json.dumps(record | {"settings": settings | {"by_setting": "ROWS"}}, indent=1)
    return text.replace('"ROWS"', f"[\n{lines}\n  ]") + "\n"


if __name__ == "__main__":
    sys.exit(main())
