"""Forks that run none of Python's hooks, made in C: the child notices before it writes to what is its parent's."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from mmap import mmap
from pathlib import Path
from textwrap import dedent
from types import FrameType
from typing import Any

import pytest
from tests.journals import recover_into
from tests.write_side import child_environment, phases_of, run_python, url_of

from autopack._util import forks
from autopack._util.forks import ProcessNumber, make_mark

# A fork in C while any thread waits for the GIL leaves a child that can never hand it over (seen: 1 of 7).
# So each of these programs lets its writer come to rest first, and wakes nothing until it has forked.
PREPARE = """
    import ctypes
    from autopack.telemetry import Telemetry

    def switches():
        tasks = [task for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]
        return [line for task in tasks for line in open(f"/proc/self/task/{task}/status") if "ctxt_switches" in line]

    def fork_in_c():
        seen, at_rest = None, threading.Event()
        while seen != (seen := switches()):
            at_rest.wait(0.2)
        return ctypes.PyDLL(None).fork()
"""

FORK_IN_C = """
    telemetry = Telemetry(sys.argv[1], shutdown_timeout_s=30, flush_interval_s=60)
    accepted = [telemetry.record(**event(phase_id="before"))]
    assert telemetry.flush(30)
    child = fork_in_c()
    for n in range(500):
        accepted.append(telemetry.record(**event(phase_id=f"{'parent' if child else 'child'}{n}")))
    assert all(accepted)
    telemetry.close(30)
    stats = telemetry.stats()
    assert (stats.pending, stats.duplicates, stats.accepted) == (0, 0, 501 if child else 500), stats
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    else:
        os._exit(0)
"""


@pytest.mark.parametrize("journal", ["auto", "off"])
def test_a_child_forked_in_c_has_a_writer_of_its_own(database: Path, journal: str) -> None:
    """1,001 accepted, 1,001 rows; before the child looked it was 501."""
    options = ["-W", "ignore::DeprecationWarning"]
    run_python(
        dedent(PREPARE) + dedent(FORK_IN_C), url_of(database), options=options, env={"TELEMETRY_JOURNAL_DIR": journal}
    )
    expected = [f"{who}{n}" for who in ("parent", "child") for n in range(500)]
    assert Counter(phases_of(database)) == Counter(["before", *expected])


@pytest.mark.slow
@pytest.mark.parametrize("first", ["flush(1)", "stats()", "close(1)", "begin_close()"])
def test_every_door_notices_a_fork_in_c(database: Path, first: str) -> None:
    """A child that first asks finds an empty instance, and leaves the parent's events to the parent."""
    code = f"""
        telemetry = Telemetry(sys.argv[1], flush_interval_s=60)
        assert telemetry.record(**event(phase_id="parent")) and telemetry.flush(30)
        child = fork_in_c()
        if not child:
            telemetry.{first}
            stats = telemetry.stats()
            os._exit(0 if stats.accepted == 0 and not stats.worker_alive else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        telemetry.record(**event(phase_id="parent"))
        telemetry.close(30)
        assert telemetry.stats().written == 2, telemetry.stats()
    """
    run_python(dedent(PREPARE) + dedent(code), url_of(database), options=["-W", "ignore::DeprecationWarning"])
    assert phases_of(database) == ["parent", "parent"]


@pytest.mark.parametrize("kind", [make_mark, ProcessNumber])
def test_a_mark_is_read_as_0_in_a_child(kind: Callable[[], mmap | ProcessNumber]) -> None:
    """Of a page that the kernel wipes, and of the process id. The child leaves at once."""
    read_end, write_end = os.pipe()
    mark = kind()
    assert mark[0] == 1
    child = os.fork()
    if not child:
        before = mark[0]
        mark[0] = 1
        os.write(write_end, bytes([before, mark[0]]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read_end, 2) == b"\0\1"
    assert mark[0] == 1
    os.close(read_end)
    os.close(write_end)


APPLICATION = """
import logging
import os
from autopack.telemetry import Telemetry
from tests.write_side import event

logging.basicConfig(format="SAID %(message)s")
telemetry = Telemetry(os.environ["EVENTS_URL"])
assert telemetry.record(**event(phase_id="before"))


def application(environ, start_response):
    accepted = telemetry.record(**event(phase_id=environ["PATH_INFO"].strip("/")))
    start_response("200 OK" if accepted else "500 Dropped", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
"""


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def uwsgi() -> str:
    """The server beside this interpreter, or on the path."""
    found = shutil.which("uwsgi", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    return found or pytest.skip("uWSGI is not installed")


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def answer(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as reply:  # noqa: S310 (on loopback)
        return str(reply.read(), "ascii")


@pytest.mark.slow
@pytest.mark.parametrize("threads", [[], ["--enable-threads"]])
def test_uwsgi_keeps_every_event_once(database: Path, tmp_path: Path, threads: list[str]) -> None:
    """A real server with two workers, which are forked in C after the first event. Each accepted event once; without
    threads one warning says that nothing is certain to be written until the end.
    """
    server, port = uwsgi(), free_port()
    (tmp_path / "application.py").write_text(APPLICATION)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                server,
                f"--http-socket=127.0.0.1:{port}",
                f"--wsgi-file={tmp_path / 'application.py'}",
                "--master",
                "--processes=2",
                "--need-app",
                "--die-on-term",
                *threads,
            ],
            env=child_environment({"EVENTS_URL": url_of(database)}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline_s = time.monotonic() + 30
        while not listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s
        answers = [answer(f"http://127.0.0.1:{port}/request{n}") for n in range(40)]
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = log.read_text()
    assert all(text.isdigit() for text in answers), said
    assert said.count("SAID uWSGI runs without --enable-threads") == (0 if threads else 1), said
    recover_into(database)  # what the master accepted, which uWSGI ends without a word to Python
    assert Counter(phases_of(database)) == Counter(["before", "later", *(f"request{n}" for n in range(40))]), said


def test_events_of_a_child_forked_in_c_have_ids_of_their_own(database: Path) -> None:
    """Parent and child record at the same instant, from the same point of the parent's sequence."""
    code = """
        from autopack.telemetry import recorder

        telemetry = Telemetry(sys.argv[1], flush_interval_s=60)
        assert telemetry.record(**event(phase_id="before")) and telemetry.flush(30)
        recorder.time_ns = lambda: 1_700_000_000_000_000_000
        child = fork_in_c()
        assert telemetry.record(**event(phase_id="parent" if child else "child"))
        telemetry.close(30)
        assert telemetry.stats().duplicates == 0
        if not child:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    run_python(dedent(PREPARE) + dedent(code), url_of(database), options=["-W", "ignore::DeprecationWarning"])
    assert sorted(phases_of(database)) == ["before", "child", "parent"]


@pytest.mark.parametrize("first", ["close(30)", "begin_close()", "closed"])
def test_a_close_in_a_child_leaves_the_parents_journal(database: Path, first: str) -> None:
    """As in uWSGI, whose master accepts events and starts no writer: its workers close, and have recorded nothing."""
    code = f"""
        import signal, time, types

        master = os.getpid()
        sys.modules["uwsgi"] = uwsgi = types.ModuleType("uwsgi")
        uwsgi.masterpid = lambda: master
        uwsgi.worker_id = lambda: int(os.getpid() != master)
        uwsgi.opt = {{"enable-threads": True}}
        telemetry = Telemetry(sys.argv[1])
        assert telemetry.record(**event(phase_id="before"))
        child = fork_in_c()
        if not child:
            begun_s = time.monotonic()
            telemetry.{first}
            telemetry.close(30)
            os._exit(0 if time.monotonic() - begun_s < 3 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for n in range(10):
            assert telemetry.record(**event(phase_id=f"p{{n}}"))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run_python(dedent(PREPARE) + dedent(code), url_of(database), exit_code=-signal.SIGKILL)
    assert recover_into(database).recovered == 11
    assert Counter(phases_of(database)) == Counter(["before", "later", *(f"p{n}" for n in range(10))])


def test_a_flush_in_the_master_of_uwsgi_starts_no_thread(database: Path) -> None:
    """It says at once that not all is settled; the close at its end writes what there is."""
    code = """
        import threading, time, types

        sys.modules["uwsgi"] = uwsgi = types.ModuleType("uwsgi")
        uwsgi.masterpid = os.getpid
        uwsgi.worker_id = lambda: 0
        uwsgi.opt = {"enable-threads": True}
        from autopack.telemetry import Telemetry

        telemetry = Telemetry(sys.argv[1])
        assert telemetry.flush(30), "nothing is unsettled"
        assert telemetry.record(**event(phase_id="before"))
        begun_s = time.monotonic()
        assert not telemetry.flush(30)
        assert time.monotonic() - begun_s < 5
        assert len(os.listdir("/proc/self/task")) == threading.active_count() == 1
        assert "aiosqlite" not in sys.modules
        telemetry.close(30)
    """
    run_python(code, url_of(database))
    assert phases_of(database) == ["before"]


def test_a_child_forked_in_c_forks_at_once(database: Path) -> None:
    """It waits for no thread of its parent's: without a look at the mark it waits 5 s."""
    code = """
        import time

        telemetry = Telemetry(sys.argv[1], flush_interval_s=60)
        assert telemetry.record(**event()) and telemetry.flush(30)
        child = fork_in_c()
        if not child:
            begun_s = time.monotonic()
            grandchild = os.fork()
            if not grandchild:
                os._exit(0)
            os.waitpid(grandchild, 0)
            os._exit(0 if time.monotonic() - begun_s < 3 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        telemetry.close(30)
    """
    run_python(dedent(PREPARE) + dedent(code), url_of(database), options=["-W", "ignore::DeprecationWarning"])


def interrupted_at(line: int) -> bool:
    """Notice a fork, and once more at a line of that very step, as a handler does; returns whether it has that line."""
    former, seen = sys.gettrace(), 0

    def trace(frame: FrameType, what: str, _: object) -> Any:
        nonlocal seen
        if frame.f_code is not forks.notice.__code__:
            return None
        seen += what == "line"
        if seen == line and what == "line":
            sys.settrace(former)
            forks.notice()
        return trace

    sys.settrace(trace)
    try:
        assert forks.notice()
    finally:
        sys.settrace(former)
    return seen == line


def test_a_handler_at_any_line_of_the_notice_undoes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a signal handler began anew, and may have written, is not reset when the interrupted call goes on."""
    undone: list[int] = []
    monkeypatch.setattr(forks, "_undo", [lambda: undone.append(1)])
    monkeypatch.setattr(forks, "mark", mark := make_mark())
    for line in itertools.count(1):
        mark[0] = 0
        undone.clear()
        through = not interrupted_at(line)
        assert (undone, mark[0]) == ([1], 1), f"interrupted before the line {line} that was run"
        if through:
            break
    assert line > 5
