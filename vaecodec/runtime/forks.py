"""Detects forks: a forked process has the memory of its parent, but only the thread that forked.

Forking while other threads are running can still deadlock the child, in any library. The start methods "spawn" and
"forkserver" of `multiprocessing` avoid this.
"""

import os
import sys
import threading

forked_thread: int | None = None
"""Identifier of the thread that survived a fork, and so lost torch's worker threads."""


def watch() -> None:
    """Records every later fork, in the child. Does nothing where there are no forks (Windows)."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_note)


def _note() -> None:
    global forked_thread
    forked_thread = threading.get_ident() if "torch" in sys.modules else None
