import signal
import threading
from types import FrameType

import anyio
import pytest
from tests.write_side import run_python

from autopack._util.signals import StopSignals, exiting_at_signals


async def test_a_signal_cancels_the_scope_and_restores_the_handler() -> None:
    """A signal cancels the bound scope, calls the handler of before, and restores it."""
    heard = []

    def earlier(number: int, _frame: FrameType | None) -> None:
        heard.append(number)

    original = signal.signal(signal.SIGTERM, earlier)
    try:
        with StopSignals() as stop:
            with anyio.CancelScope() as scope, stop.cancelling(scope):
                signal.raise_signal(signal.SIGTERM)
                await anyio.sleep(30)
            with anyio.CancelScope() as late, stop.cancelling(late):
                await anyio.sleep(30)
        assert signal.getsignal(signal.SIGTERM) is earlier
    finally:
        signal.signal(signal.SIGTERM, original)
    assert heard == [signal.SIGTERM]
    assert stop.signum == signal.SIGTERM
    assert scope.cancelled_caught
    assert late.cancelled_caught


def test_the_first_signal_is_kept_and_later_ones_change_nothing() -> None:
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert stop.signum == signal.SIGINT


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_program_as_an_exit_does(number: signal.Signals, code: int) -> None:
    program = f"""
        import signal
        from autopack._util.signals import exiting_at_signals
        with exiting_at_signals():
            try:
                signal.raise_signal({int(number)})
            finally:
                print("closed what was open")
    """
    assert run_python(program, exit_code=code).stdout == "closed what was open\n"


def test_the_handlers_of_before_are_back_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with exiting_at_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
        with StopSignals():
            pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before, during = signal.getsignal(signal.SIGTERM), []

    def in_a_thread() -> None:
        with exiting_at_signals(), StopSignals():
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert during == [before]
