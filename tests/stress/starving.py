"""A program that encodes and decodes with less and less memory, and must stay usable. It prints a JSON record.

Usage: `python starving.py LEVELS SIDE`, the side of the picture in pixels. A level is a limit to the address space
(RLIMIT_AS) beyond which every allocation fails, in Python, numpy, torch, zlib and whatever lies under them.
"""

import json
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from stress import Outcome
from vaecodec import Codec
from vaecodec.errors import VaecResourceError

LARGEST_MIB_A_MPX = 1200


def address_space_bytes() -> int:
    """What this process takes of it now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@contextmanager
def at_most_bytes_more(extra_bytes: int) -> Iterator[None]:
    """The process gets so many more bytes, and no more."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes() + extra_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def outcome_of(act: Callable[[], object], extra_bytes: int) -> str:
    """What comes of an act with so much memory: "done", "refused", or the name of an error that should not be."""
    try:
        with at_most_bytes_more(extra_bytes):
            act()
    except VaecResourceError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "done"


def main(levels: int, side: int) -> Outcome:
    """Tries every level; after each, everything must work again."""
    outcome, codec = Outcome(), Codec(device="cpu")
    y, x = np.mgrid[0:side, 0:side]
    image = np.stack([128 + 60 * np.sin((x * (c + 1) + y) / 40) for c in range(3)], -1).astype(np.uint8)
    data = codec.encode(image, 50)
    small = image[:64, :64].copy()
    small_data = codec.encode(small, 50)
    acts = {"encode": lambda: codec.encode(image, 50), "decode": lambda: codec.decode(data, output="numpy")}
    for level in range(levels):
        extra_bytes = LARGEST_MIB_A_MPX * side**2 * level**2 // max(1, levels - 1) ** 2
        for name, act in acts.items():
            found = outcome_of(act, extra_bytes)
            outcome.counts[f"{name} {found}" if found in ("done", "refused") else "other"] += 1
            where = f"{name} with {extra_bytes >> 20} MiB"
            outcome.require(found in ("done", "refused"), f"{where}: {found}")
            outcome.require(codec.encode(small, 50) == small_data, f"{where} spoils what comes after")
    outcome.facts |= {"largest_mib": LARGEST_MIB_A_MPX * side**2 >> 20, "side_px": side}
    return outcome


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2])).as_json()))
