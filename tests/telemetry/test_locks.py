"""The locks of `lifecycle`: one that is gone without where it cannot be had, and one that no child finds held."""

import threading
import time

from tests.write_side import run_python

from autopack._util import os_threads
from autopack.telemetry.lifecycle import ForkSafeLock, best_effort


def test_best_effort_goes_on_without_a_lock_that_is_held() -> None:
    """It says so, and releases nothing that it does not hold."""
    lock = os_threads.RLock()
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            over.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)
    with best_effort(lock) as acquired:
        assert not acquired
    over.set()
    holder.join()
    with best_effort(lock) as acquired, best_effort(lock) as again:
        assert acquired
        assert again
    assert lock.acquire(blocking=False)
    lock.release()


def test_a_release_after_a_wait_in_vain_is_harmless() -> None:
    """A fork goes ahead when it cannot acquire a lock in time, and undoes what it did not do."""
    lock = ForkSafeLock(fork_waits=True)
    lock.release()
    began_s = time.monotonic()
    with lock.hold() as held:
        assert held
    assert time.monotonic() - began_s < 5


def test_a_lock_is_free_in_a_child_whichever_thread_held_it() -> None:
    """Also in the thread that forked while it held it, whose context ends in the child."""
    run_python(
        """
        from autopack.telemetry.lifecycle import ForkSafeLock
        lock, held, over = ForkSafeLock(), threading.Event(), threading.Event()
        def hold():
            with lock.hold():
                held.set()
                over.wait(30)
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(30)
        child = os.fork()
        if not child:
            with lock.hold(0.1) as free:
                os._exit(0 if free else 1)
        over.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with lock.hold():
            child = os.fork()
        if not child:
            with lock.hold(0.1) as free:
                os._exit(0 if free else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """,
        options=["-W", "ignore::DeprecationWarning"],
    )


def test_a_fork_waits_for_a_lock_that_guards_an_import() -> None:
    """The child of a fork that did not wait would see the guarded step half done."""
    run_python(
        """
        from autopack.telemetry import lifecycle
        held, steps = threading.Event(), []
        def import_something():
            with lifecycle.importing():
                steps.append("begun")
                held.set()
                threading.Event().wait(0.3)  # the length of the import
                steps.append("done")
        thread = threading.Thread(target=import_something)
        thread.start()
        held.wait(30)
        child = os.fork()
        if not child:
            os._exit(0 if steps == ["begun", "done"] else 1)
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """,
        options=["-W", "ignore::DeprecationWarning"],
    )
