"""A run: which pictures are still to be done, who does them, and that each is in the manifest once."""

import os
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass

from vaecodec.cli.transcoding import manifest
from vaecodec.cli.transcoding.manifest import Manifest, Record
from vaecodec.cli.transcoding.places import Place
from vaecodec.cli.transcoding.worker import Job, Work
from vaecodec.errors import VaecError

SUFFIX = ".vaec"


class TargetTakenError(VaecError):
    """The target holds other files than those of this run: made with other settings, or by somebody else."""

    default_code = "TARGET_TAKEN"


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        jobs: pictures that are not done yet, by name.
        skipped: how many are done already.
        refused: records of pictures that must not be done, because another has the same output.
    """

    jobs: Sequence[Job]
    skipped: int
    refused: Sequence[Record]


def plan(work: Work, picks: Callable[[str], bool]) -> Plan:
    """Finds out what is to be done. A picture is done if the manifest says so and its file is there, with its size.

    Args:
        work: source, target and settings.
        picks: tells by its name whether a file is a picture.

    Raises:
        TargetTakenError: .vaec files in the target have another quality, or were made with other weights
            (OTHER_SETTINGS), or there is no manifest with them (TARGET_TAKEN).
        VaecError, OSError: source or target cannot be read; a target that is not there yet is empty.
    """
    there = dict(work.target.sizes()) if work.target.files.isdir(work.target.root) else {}
    _check_owner(there, work.target)
    records = manifest.read(work.target, there)
    jobs, refused, skipped = [], [], 0
    taken = {record["output"]: path for path, record in records.items() if record["status"] == "done"}
    for path in sorted(name for name, _ in work.source.sizes() if picks(name)):
        job = Job(path, os.path.splitext(path)[0] + SUFFIX)
        first = taken.setdefault(job.output, path)
        if first != path:
            refused.append(_failed(path, "COLLISION", f"{job.output} is already the output of {first}"))
        elif _is_done(records.get(path), there, work):
            skipped += 1
        else:
            jobs.append(job)
    return Plan(jobs, skipped, refused)


def run(plan: Plan, target: Place, answers: Iterable[Record]) -> Generator[Record]:
    """Writes the manifest, and yields every record that goes into it.

    Args:
        plan: what is to be done.
        target: where the manifest goes.
        answers: records of its jobs, from whoever does them, in any order, some perhaps twice.

    Yields:
        Exactly one record for every job and every refused picture. A job without an answer has failed (LOST).
    """
    waiting = {job.path for job in plan.jobs}
    with Manifest(target) as written:
        for record in plan.refused:
            written.add(record)
            yield record
        for record in answers:
            if record["path"] in waiting:
                waiting.remove(record["path"])
                written.add(record)
                yield record
        for path in sorted(waiting):
            record = _failed(path, "LOST", "no worker has answered: run again")
            written.add(record)
            yield record


def _check_owner(there: Collection[str], target: Place) -> None:
    """A .vaec file that no manifest tells of may be the only one of its picture, and must not be replaced."""
    if any(name.endswith(SUFFIX) for name in there) and not any(map(manifest.is_manifest, there)):
        raise TargetTakenError(
            f"{target.root!r} holds {SUFFIX} files but no manifest, so they are not from here: choose an empty folder"
        )


def _is_done(record: Record | None, there: dict[str, int], work: Work) -> bool:
    if record is None or record["status"] != "done":
        return False
    made, asked = (record["quality"], record["model_id"]), (work.quality, work.model_id)
    if made != asked:
        raise TargetTakenError(
            f"{record['output']} was made with quality {made[0]} and the weights {made[1]}, now they are {asked[0]} and"
            f" {asked[1]}: choose another target, or the same settings",
            code="OTHER_SETTINGS",
        )
    return there.get(record["output"]) == record["output_bytes"]


def _failed(path: str, code: str, message: str) -> Record:
    return {"path": path, "worker": None, "status": "failed", "code": code, "message": message}
