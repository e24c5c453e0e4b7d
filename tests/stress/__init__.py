"""Programs stopped at random moments, and long lives in one process: what must not be lost, and what must not grow.

`writing` stops programs that write: `overwriter` is the one that is killed. `living` runs many threads, processes and
pictures; `workers` and `starving` are programs of its own, because what they do would spoil the process of the tests.
Each experiment returns what it counted and the laws that it saw broken. `driver` is the long form (`make stress`),
tests/test_writing.py and tests/test_process.py the short.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """What came of an experiment.

    Attributes:
        counts: how often each thing happened.
        broken: what happened that must not, in words.
        facts: other figures.
    """

    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def require(self, holds: bool, otherwise: str) -> None:
        """Notes a broken law unless it holds."""
        if not holds:
            self.broken.append(otherwise)

    def as_json(self) -> dict[str, Any]:
        """For the record."""
        return {**self.counts, **self.facts, "broken": self.broken}
