"""What happens in the middle of a call: as a signal handler, or another thread, would do it, and at a chosen step."""

import sys
import threading
from collections.abc import Callable
from types import FrameType


def at_c_call(name: str, do: Callable[[], object]) -> None:
    """Do something once, in the middle of the next call of a C function of this name: as a signal handler would."""

    def interrupt(_frame: FrameType, what: str, function: object) -> None:
        if what == "c_call" and getattr(function, "__name__", "") == name:
            sys.setprofile(None)
            do()

    sys.setprofile(interrupt)


def at_call(name: str, do: Callable[[], object]) -> None:
    """The same, when a function of autopack of this name begins."""
    at_event("call", name, do)


def at_return(name: str, do: Callable[[], object]) -> None:
    """The same, when a function of autopack of this name ends."""
    at_event("return", name, do)


def at_event(wanted: str, name: str, do: Callable[[], object]) -> None:
    def interrupt(frame: FrameType, what: str, _argument: object) -> None:
        if what == wanted and frame.f_code.co_qualname == name:
            sys.setprofile(None)
            do()

    sys.setprofile(interrupt)


def in_another_thread(do: Callable[[], object]) -> Callable[[], None]:
    """What another thread does while the one that asks for it sleeps."""

    def run() -> None:
        thread = threading.Thread(target=do)
        thread.start()
        thread.join()

    return run
