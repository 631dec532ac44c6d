"""End with the parent: no process of a server outlives the one that started it, however that ended.

By a signal that Linux sends when the parent ends, not by a pipe that a thread watches: such a thread waits
for the interpreter, which a kernel, a compiler or a hung import can keep for minutes. The signal comes
when the *thread* ends that started the process; vLLM starts its processes from main threads.
"""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import threading

# All that our small programs need of the environment. Those that meet strangers have no use for keys.
PLAIN_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG")

_PR_SET_PDEATHSIG = 1

_forking_process: int | None = None  # while its main thread forks


@functools.cache
def watch() -> None:
    """For this process, if `multiprocessing` has started it, and for those that it forks from now on."""
    if sys.platform != "linux":
        return
    parent = multiprocessing.parent_process()
    if parent is not None:
        _ask_for_signal()
        if not parent.is_alive():  # it ended before it was asked
            _end()
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def tie_to_parent() -> None:
    """For a program that this process starts: in its place as `preexec_fn`, from the main thread."""
    if sys.platform == "linux":
        _ask_for_signal()


def _before_fork() -> None:
    global _forking_process
    in_main = threading.current_thread() is threading.main_thread()
    _forking_process = os.getpid() if in_main else None


def _after_fork() -> None:
    """CUDA has vLLM fork its processes, and a forked one does not load plugins again."""
    if _forking_process is not None:
        _ask_for_signal()
        if os.getppid() != _forking_process:
            _end()


def _ask_for_signal() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
