"""Waiting for another thread, and never in a function that a library has replaced."""

import threading
import time

import pytest

from autopack._util import os_threads


def test_an_announcement_ends_the_wait_of_every_thread() -> None:
    changes = os_threads.Changes()
    happened: list[bool] = []
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(changes.wait_for(lambda: bool(happened), 30))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    happened.append(True)
    changes.announce()
    for thread in threads:
        thread.join(20)
    assert answers == [True] * 5


def test_a_change_that_comes_first_is_not_waited_for() -> None:
    """It is announced while the thread looks for the first time, before it is among those that wait."""
    changes = os_threads.Changes()
    looks: list[bool] = []

    def holds() -> bool:
        looks.append(bool(looks))
        changes.announce()
        return looks[-1]

    assert changes.wait_for(holds, 30)
    assert looks[:2] == [False, True]


def test_a_wait_ends_with_its_time_and_leaves_nothing_behind() -> None:
    changes = os_threads.Changes()
    begun_s = time.monotonic()
    assert not changes.wait_for(lambda: False, 0.3)
    assert 0.3 <= time.monotonic() - begun_s < 20
    assert not changes._waiting


def test_a_poll_sleeps_by_what_the_library_has_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is twice as long as the one before, up to 50 ms."""
    pauses_s: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses_s.append)
    assert os_threads.poll(lambda: len(pauses_s) == 8, 30)
    assert pauses_s == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05]


@pytest.mark.parametrize("refusal", [AssertionError("of gevent"), RuntimeError("of eventlet")])
def test_a_poll_that_may_not_switch_sleeps_for_real(monkeypatch: pytest.MonkeyPatch, refusal: Exception) -> None:
    def refuse(_seconds: float) -> None:
        raise refusal

    monkeypatch.setattr(time, "sleep", refuse)
    begun_s = time.monotonic()
    assert not os_threads.poll(lambda: False, 0.1)
    assert time.monotonic() - begun_s >= 0.1


def test_a_second_copy_of_a_module_starts_real_threads() -> None:
    """What is taken from it where the module itself was patched before."""
    threads = os_threads.real_module("_thread")
    assert threads.start_new_thread is not os_threads.start_new_thread
    ended = threads.allocate_lock()
    ended.acquire()
    identities: list[int] = []

    def work() -> None:
        identities.append(threads.get_ident())
        ended.release()

    threads.start_new_thread(work, ())
    assert ended.acquire(timeout=20)
    assert identities[0] not in (0, threading.get_ident())


def test_a_thread_is_joined_when_it_has_ended() -> None:
    goes_on = threading.Event()
    given: list[os_threads.Thread] = []

    def work(itself: os_threads.Thread) -> None:
        goes_on.wait(30)
        given.append(itself)

    thread = os_threads.Thread(work, "of a test")
    thread.start()
    thread.join(0.01)
    assert not given
    assert "of a test" in [other.name for other in threading.enumerate()]
    goes_on.set()
    thread.join(20)
    assert given == [thread]
    assert thread.native_id not in (None, threading.get_native_id())
