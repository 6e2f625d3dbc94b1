"""Run by an interpreter without the GIL: what the write side does there, with eight threads at a time.

Prints one JSON object. `msgspec` has no build for some of these interpreters; there a stand-in makes the few structs
that are imported on the way, and no event is encoded.
"""

import json
import sys
import threading
import types
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

THREADS = 8
EVENTS = 20_000
CAPACITY = 1_000


class _Struct:
    """What `msgspec.Struct` is to `Account`."""

    def __init_subclass__(cls, **_options: object) -> None:
        names = [name for base in reversed(cls.__mro__) for name in getattr(base, "__annotations__", {})]

        def fill(self: object, *values: object, **named: object) -> None:
            vars(self).update(zip(names, values, strict=False), **named)

        cls.__init__ = fill  # type: ignore[method-assign]


def _stand_in_for_msgspec() -> None:
    module = types.ModuleType("msgspec")
    module.Struct = _Struct  # type: ignore[attr-defined]
    sys.modules["msgspec"] = module


def in_threads(work: Callable[[int], object]) -> None:
    """Run it in all threads, which begin at the same moment."""
    barrier = threading.Barrier(THREADS)

    def begin(number: int) -> None:
        barrier.wait()
        work(number)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def count() -> dict[str, int]:
    """Take numbers and count, in all threads."""
    from autopack.telemetry.counters import AtomicCounter

    sequence, counter = AtomicCounter(7), AtomicCounter()
    taken: list[list[int]] = [[] for _ in range(THREADS)]

    def work(number: int) -> None:
        for _ in range(EVENTS):
            taken[number].append(next(sequence.ticks))
            counter.add()

    in_threads(work)
    return {"numbers": len({number for numbers in taken for number in numbers}), "counted": counter.value}


def queue() -> dict[str, Any]:
    """Append to a queue that is too small, in all threads but one, which takes and settles; then close it."""
    from autopack.errors import QueueRejected
    from autopack.telemetry.engine.queue import MemoryQueue

    memory = MemoryQueue(CAPACITY, CAPACITY * 100)
    accepted: list[list[bytes]] = [[] for _ in range(THREADS)]
    refused = [0] * THREADS
    arrived: list[bytes] = []
    most = 0
    writing = THREADS - 1
    done = threading.Semaphore(0)

    def settle_some() -> None:
        nonlocal most
        most = max(most, memory.account().pending)
        batch = memory.take(100)
        arrived.extend(batch.values())
        memory.settle(batch, written=len(batch))
        memory.set_wake_threshold(50)

    def work(number: int) -> None:
        if number == writing:
            ended = 0
            while ended < writing or memory.backlog:
                ended += done.acquire(blocking=False)
                settle_some()
            return
        for event in range(EVENTS):
            payload = b"%d:%d" % (number, event)
            try:
                if event % 10:
                    memory.append(payload)
                else:
                    memory.append_any(payload.ljust(250))
                accepted[number].append(payload)
            except (IndexError, QueueRejected):
                refused[number] += 1
        done.release()

    in_threads(work)
    memory.close_to_new()
    account = memory.account()
    by_thread: list[list[bytes]] = [[] for _ in range(THREADS)]
    for payload in arrived:
        by_thread[int(payload.split(b":")[0])].append(payload.rstrip())
    return {
        "accepted": sum(map(len, accepted)),
        "refused": sum(refused),
        "in order": by_thread == accepted,
        "written": account.written,
        "pending": account.pending,
        "most": most,
        "in progress": memory.has_in_progress_appends,
    }


if __name__ == "__main__":
    if find_spec("msgspec") is None:
        _stand_in_for_msgspec()
    gil = getattr(sys, "_is_gil_enabled", lambda: True)
    result = {"count": count(), "queue": queue(), "gil": gil(), "python": sys.version.split()[0]}
    sys.stdout.write(json.dumps(result))
