"""A transcoding run: finds the remaining pictures, and records each of them in the manifest exactly once."""

import os
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass

from vaecodec.cli.options import AUTO
from vaecodec.cli.transcoding import manifest
from vaecodec.cli.transcoding.manifest import Manifest, Record
from vaecodec.cli.transcoding.places import Place
from vaecodec.cli.transcoding.worker import Job, Work
from vaecodec.errors import VaecError

SUFFIX = ".vaec"


class TargetTakenError(VaecError):
    """The target holds files that are not from this run: made with other settings, or by somebody else."""

    default_code = "TARGET_TAKEN"


@dataclass(frozen=True)
class Plan:
    """The work of a run.

    Attributes:
        jobs: pictures that are not done yet, by name.
        skipped: number of pictures that are done already.
        refused: records of pictures that are refused because another picture has the same output.
    """

    jobs: Sequence[Job]
    skipped: int
    refused: Sequence[Record]


def plan(work: Work, picks: Callable[[str], bool]) -> Plan:
    """Plans the work. A picture is done if the manifest says so and its file exists with the recorded size.

    Args:
        work: source, target and settings.
        picks: whether a file is a picture, by its name.

    Raises:
        TargetTakenError: (OTHER_SETTINGS) .vaec files in the target have another quality or other weights, or
            (TARGET_TAKEN) there is no manifest with them.
        VaecError, OSError: source or target cannot be read. A target that does not exist yet counts as empty.
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
        plan: the work.
        target: where the manifest goes.
        answers: records of its jobs, in any order, some perhaps twice.

    Yields:
        Exactly one record for every job and every refused picture. A job without a record has failed (LOST).
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
            record = _failed(path, "LOST", "no worker returned a result: run the command again")
            written.add(record)
            yield record


def _check_owner(there: Collection[str], target: Place) -> None:
    """Refuses a target without a manifest: its .vaec files may be the only copies of their pictures."""
    if any(name.endswith(SUFFIX) for name in there) and not any(map(manifest.is_manifest, there)):
        raise TargetTakenError(
            f"{target.root!r} holds {SUFFIX} files but no manifest, so they are not from a"
            " run of this command: choose an empty folder"
        )


def _is_done(record: Record | None, there: dict[str, int], work: Work) -> bool:
    if record is None or record["status"] != "done":
        return False
    quality = record.get("requested_quality", record["quality"])  # earlier builds were always given one
    made, asked = (quality, record["model_id"]), (work.quality, work.model_id)
    if made != asked:
        raise TargetTakenError(
            f"{record['output']} was made with quality {made[0] or AUTO} and weights {made[1]}, this run uses"
            f" {asked[0] or AUTO} and {asked[1]}: choose another target, or the same settings",
            code="OTHER_SETTINGS",
        )
    return there.get(record["output"]) == record["output_bytes"]


def _failed(path: str, code: str, message: str) -> Record:
    return {"path": path, "worker": None, "status": "failed", "code": code, "message": message}
