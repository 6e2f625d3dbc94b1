"""A main thread that computes, in pure Python, and how it is counted."""

from __future__ import annotations

import threading
import time


def unit(state: int) -> int:
    """Some 20 µs of Python: arithmetic, a list, a dictionary, strings."""
    table = {}
    for number in range(40):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        table[state % 17] = [state, str(number)]
    return state + len(table)


def cpu_of_other_threads_ns() -> dict[int, int]:
    """The CPU time of each thread of this process but the present one, by its id."""
    return {
        thread.ident: time.clock_gettime_ns(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.ident is not None and thread is not threading.current_thread() and thread.is_alive()
    }
