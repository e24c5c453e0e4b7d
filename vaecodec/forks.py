"""What a forked process must know: it has the memory of its parent, but of the threads only the one that forked.

Forking while other threads are at work can still stop the child, in any library: the start methods "spawn" and
"forkserver" of `multiprocessing` have none of this.
"""

import os
import sys
import threading

_bereft_thread: int | None = None


def watch() -> None:
    """Sees to it that a fork from here on is noted in the child. Where there are none (Windows), nothing happens."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_note)


def is_bereft_thread() -> bool:
    """Tells a thread, once, that it came through a fork and may have lost the threads that computed for it in torch."""
    global _bereft_thread
    if _bereft_thread != threading.get_ident():
        return False
    _bereft_thread = None
    return True


def _note() -> None:
    global _bereft_thread
    _bereft_thread = threading.get_ident() if "torch" in sys.modules else None
