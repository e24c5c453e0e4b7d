"""Forked processes: they have the memory of their parent, but of its threads only the one that forked.

Forking while other threads are at work can still stop the child, in any library: the start methods "spawn" and
"forkserver" of `multiprocessing` have none of this.
"""

import os
import sys
import threading

forked_thread: int | None = None
"""The thread, by its identifier, that came through a fork and lost the threads that computed for it in torch."""


def watch() -> None:
    """Note every fork from here on in the child. Where there are none (Windows), nothing happens."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_note)


def _note() -> None:
    global forked_thread
    forked_thread = threading.get_ident() if "torch" in sys.modules else None
