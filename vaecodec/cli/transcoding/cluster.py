"""Distributes the work with Ray Data: Ray starts, restarts and feeds actors that load the weights once."""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from vaecodec.cli.transcoding.manifest import Record
from vaecodec.cli.transcoding.worker import Job, Transcoder, Work
from vaecodec.errors import VaecError

LOCAL = "local"
"""Used instead of an address: a cluster of this machine alone, which ends with the run."""

JOBS_EACH = 16
"""Jobs that an actor takes at a time. They are repeated if it dies, and their records arrive together."""


class ClusterError(VaecError):
    """Ray is not installed, cannot be reached, or failed."""

    default_code = "CLUSTER"


@dataclass(frozen=True)
class Cluster:
    """Where to find workers.

    Attributes:
        address: of a Ray cluster; "auto" is the one of this machine, "local" starts one.
        workers: at most this many actors; None is one per processor, or per GPU share.
        gpu_share: share of a GPU per actor, such as 1 or 0.25; 0 encodes on one processor per actor.
    """

    address: str = LOCAL
    workers: int | None = None
    gpu_share: float = 0.0


class Actor:
    """A Transcoder whose records fit into Ray's tables, which need the same fields in every row."""

    def __init__(self, work: Work) -> None:
        self._transcode = Transcoder(work)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Answers a row {"path", "output"} with {"record"}: the record as JSON."""
        return {"record": json.dumps(self._transcode(Job(row["path"], row["output"])))}


def answers(jobs: Sequence[Job], work: Work, cluster: Cluster) -> Iterator[Record]:
    """Yields the records of all jobs, in the order of completion; Ray starts with the first `next`.

    Ray restarts a worker that dies, on another machine if its own is lost. Its current pictures are encoded again, to
    the same files, and get one record each.

    Raises:
        ClusterError: (NO_RAY) Ray is not installed; (NO_CLUSTER) there is no cluster at the address; (NO_PLACE) the
            cluster has no processor or GPU; (CLUSTER) Ray failed, for example because no worker can load the weights.
    """
    return _answers(_import_ray(), jobs, work, cluster) if jobs else iter(())


def _answers(ray: Any, jobs: Sequence[Job], work: Work, cluster: Cluster) -> Iterator[Record]:
    with _own_output():
        try:
            _connect(ray, cluster)
            for row in _dataset(ray, jobs, work, cluster).iter_rows():
                yield json.loads(row["record"])
        except ray.exceptions.RayError as error:
            raise ClusterError(f"Ray: {error}") from error
        finally:
            with redirect_stdout(sys.stderr):  # Ray prints held-back messages from this thread
                ray.shutdown()


def _dataset(ray: Any, jobs: Sequence[Job], work: Work, cluster: Cluster) -> Any:
    """The lazy Ray dataset of the jobs: nothing runs before its rows are requested."""
    rows = ray.data.from_items([job._asdict() for job in jobs], override_num_blocks=-(-len(jobs) // JOBS_EACH))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=cluster.workers or _count_workers(ray, cluster))
    return rows.map(Actor, fn_constructor_args=(work,), compute=pool, num_cpus=1, num_gpus=cluster.gpu_share)


def _import_ray() -> Any:
    # By default Ray reports usage statistics over the network, and the user has not agreed to that.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        message = f"Ray is not installed ({error}): pip install 'vaecodec[dist]', on every machine"
        raise ClusterError(message, code="NO_RAY") from error
    return ray


def _connect(ray: Any, cluster: Cluster) -> None:
    is_local = cluster.address == LOCAL
    if not is_local:  # an attempt takes half a minute, and Ray makes twenty by default
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "2")
    started = {"include_dashboard": False} if is_local else {}
    answer_to_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error", **started)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"no Ray cluster at {cluster.address!r}: {error}", code="NO_CLUSTER") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, answer_to_sigterm)  # Ray has put its own in place
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _count_workers(ray: Any, cluster: Cluster) -> int:
    kind, share = ("GPU", cluster.gpu_share) if cluster.gpu_share else ("CPU", 1)
    count = int(ray.cluster_resources().get(kind, 0) / share)
    if count < 1:
        message = f"the cluster has room for {count} workers of {share:g} {kind}, must have room for 1"
        raise ClusterError(f"{message}: give --workers if it starts machines on demand", code="NO_PLACE")
    return count


class _Stdout:
    """Standard output for the thread that creates this object, standard error for all others."""

    def __init__(self) -> None:
        self._thread, self._stdout = threading.get_ident(), sys.stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stdout if threading.get_ident() == self._thread else sys.stderr, name)


@contextmanager
def _own_output() -> Iterator[None]:
    """Keeps Ray, which prints errors from its own thread, off standard output."""
    with redirect_stdout(_Stdout()):
        yield
