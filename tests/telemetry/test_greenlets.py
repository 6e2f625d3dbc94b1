"""gevent and eventlet: the writer works on threads of its own, whatever they have patched, before or after.

Everything happens in child interpreters, since what is patched stays patched.
"""

import http.client
import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests import postgres as postgres_servers
from tests.write_side import child_environment, phases_of, run_python, url_of

PATCH = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}
# Of eventlet: its own resolver imports trio where that is installed, which cannot be imported then.
ENVIRONMENT = {"EVENTLET_NO_GREENDNS": "yes"}

OPEN = """
from autopack.telemetry import Telemetry
telemetry = Telemetry(sys.argv[1], flush_interval_s=0.05)
"""
FIRST_EVENT = """
assert telemetry.record(**event(phase_id="first")) and telemetry.flush(30), telemetry.stats()
"""
# Where the patch comes, among what the program does.
ORDERS = {
    "patched first": ("{patch}", OPEN, FIRST_EVENT),
    "drivers first": ("import aiosqlite, anyio", "{patch}", OPEN, FIRST_EVENT),
    "instance first": (OPEN, "{patch}", FIRST_EVENT),
    "event first": (OPEN, FIRST_EVENT, "{patch}"),
}


def program(library: str, order: str) -> str:
    """What a program begins with; one event is in the database when it is over."""
    return "\n".join(ORDERS[order]).format(patch=PATCH[library])


libraries = pytest.mark.parametrize(
    "library",
    [
        pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no {name}"))
        for name in PATCH
    ],
)
orders = pytest.mark.parametrize("order", ORDERS)


@pytest.mark.slow
@libraries
@orders
def test_a_flush_waits_and_the_other_greenlets_run(database: Path, library: str, order: str) -> None:
    """The database is locked until another greenlet has seen that the one that waits stops none of them."""
    code = """
        import sqlite3, time
        blocker = sqlite3.connect(sys.argv[2])
        blocker.execute("BEGIN IMMEDIATE")
        for n in range(200):
            assert telemetry.record(**event(phase_id=f"p{n}"))
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(telemetry.flush(30)))
        waiting.start()
        for _ in range(30):
            time.sleep(0.01)
            assert not answers
        blocker.rollback()
        waiting.join()
        assert answers == [True], telemetry.stats()
        telemetry.close(30)
        assert telemetry.stats().written == 201, telemetry.stats()
    """
    run_python(program(library, order) + textwrap.dedent(code), url_of(database), database, env=ENVIRONMENT)
    assert len(phases_of(database)) == 201


@pytest.mark.slow
@libraries
@orders
def test_the_writer_works_while_no_greenlet_can_run(database: Path, library: str, order: str) -> None:
    """The thread of the greenlets waits in C, and looks at the database itself."""
    code = """
        import sqlite3, time
        from autopack._util import os_threads
        reader = sqlite3.connect(sys.argv[2])
        for n in range(200):
            assert telemetry.record(**event(phase_id=f"p{n}"))
        until_s = time.monotonic() + 30
        while reader.execute("SELECT count(*) FROM token_estimation_v2_events").fetchone() != (201,):
            assert time.monotonic() < until_s, telemetry.stats()
            os_threads.sleep(0.01)
        telemetry.close(30)
    """
    run_python(program(library, order) + textwrap.dedent(code), url_of(database), database, env=ENVIRONMENT)


@pytest.mark.slow
@libraries
@pytest.mark.parametrize("order", ["patched first", "instance first"])
def test_a_greenlet_imports_what_the_writer_imports(database: Path, library: str, order: str) -> None:
    """At the same time. The thread would meet locks of imports that are made for greenlets, and imports nothing."""
    code = """
        import anyio, aiosqlite, alembic, anyio._backends._asyncio, sqlalchemy.ext.asyncio
        assert telemetry.flush(30), telemetry.stats()
        assert not imported_beside, imported_beside
        telemetry.close(30)
    """
    watch = """
from autopack._util import os_threads
first, imported_beside = os_threads.get_ident(), []
class Watch:
    def find_spec(self, name, path=None, target=None):
        if os_threads.get_ident() != first:
            imported_beside.append(name)
sys.meta_path.insert(0, Watch())
"""
    begin = program(library, order).replace(FIRST_EVENT, f"{watch}\nassert telemetry.record(**event())\n")
    run_python(begin + textwrap.dedent(code), url_of(database), env=ENVIRONMENT)


@pytest.mark.slow
@libraries
def test_the_writer_logs_beside_greenlets_that_log(tmp_path: Path, library: str) -> None:
    """To the same handler, the lock of which is one for greenlets."""
    code = """
        import logging, time
        from autopack._util import os_threads
        from autopack.telemetry import log
        logging.basicConfig(filename=sys.argv[1], format="%(message)s")
        def warn(thread):
            for n in range(100):
                log.warning("writer %d", n)
                os_threads.sleep(0.002)
        thread = os_threads.Thread(warn, "logs")
        thread.start()
        def warn_too():
            while running:
                logging.warning("greenlet")
                time.sleep(0)
        running = [True]
        greenlets = [threading.Thread(target=warn_too) for _ in range(2)]
        for greenlet in greenlets: greenlet.start()
        assert os_threads.poll(lambda: not thread.runs, 30)
        running.clear()
        for greenlet in greenlets: greenlet.join()
        log.emit_deferred()
        assert not log.failures.value
    """
    file = tmp_path / "log"
    run_python(PATCH[library] + textwrap.dedent(code), file, env=ENVIRONMENT)
    lines = file.read_text().splitlines()
    assert [line for line in lines if line != "greenlet"] == [f"writer {n}" for n in range(100)]


@pytest.mark.slow
@libraries
@orders
def test_a_child_forked_after_the_patch_writes_too(database: Path, library: str, order: str) -> None:
    code = """
        child = os.fork()
        for n in range(20):
            assert telemetry.record(**event(phase_id=f"{'parent' if child else 'child'}{n}"))
        assert telemetry.flush(30), telemetry.stats()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    options = ["-W", "ignore::DeprecationWarning"]
    run_python(program(library, order) + textwrap.dedent(code), url_of(database), env=ENVIRONMENT, options=options)
    assert sorted(phases_of(database)) == sorted(
        ["first", *(f"{who}{n}" for who in ("parent", "child") for n in range(20))]
    )


@pytest.mark.slow
@libraries
def test_a_handler_of_a_signal_may_wait_inside_the_hub(database: Path, library: str) -> None:
    """There no greenlet may be switched to: the wait stops them all, until the database has the event."""
    code = """
        import signal, time
        answers = []
        def handle(number, frame):
            telemetry.record(**event(phase_id="in the handler"))
            answers.append(telemetry.flush(30))
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        until_s = time.monotonic() + 30
        while not answers:
            assert time.monotonic() < until_s
            time.sleep(0.01)
        assert answers == [True], telemetry.stats()
        telemetry.close(30)
    """
    run_python(program(library, "patched first") + textwrap.dedent(code), url_of(database), env=ENVIRONMENT)
    assert phases_of(database) == ["first", "in the handler"]


@pytest.mark.slow
@libraries
@orders
def test_postgresql_is_written_from_a_patched_process(
    postgres: postgres_servers.Database, library: str, order: str
) -> None:
    """The sockets of the driver may be patched ones."""
    code = """
        for n in range(200):
            assert telemetry.record(**event(phase_id=f"p{n}"))
        assert telemetry.flush(30), telemetry.stats()
        telemetry.close(30)
        assert telemetry.stats().written == 201, telemetry.stats()
    """
    environment = ENVIRONMENT | {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
    run_python(program(library, order) + textwrap.dedent(code), postgres.url, env=environment)
    assert len(postgres.rows()) == 201


@pytest.mark.slow
@libraries
@pytest.mark.parametrize("order", ["patched first", "event first"])
def test_the_address_of_a_server_is_looked_up_in_a_real_thread(database: Path, library: str, order: str) -> None:
    """As a driver does for a server that is named. No hub runs in the thread of such a loop."""
    code = """
        import _socket, asyncio
        from autopack._util import os_threads
        from autopack.telemetry.engine.loop import make_loop
        server = _socket.socket()
        server.bind(("127.0.0.1", 0))
        server.listen()
        answers = []
        async def ask():
            reader, writer = await asyncio.open_connection("localhost", server.getsockname()[1])
            accepted, _ = _socket.socket._accept(server)
            _socket.socket(fileno=accepted).send(b"hello")
            answers.append(await reader.readexactly(5))
            writer.close()
        def work(thread):
            with asyncio.Runner(loop_factory=make_loop) as runner:
                runner.run(asyncio.wait_for(ask(), 20))
        thread = os_threads.Thread(work, "asks")
        thread.start()
        thread.join(30)
        assert answers == [b"hello"], answers
        telemetry.close(30)
    """
    run_python(program(library, order) + textwrap.dedent(code), url_of(database), env=ENVIRONMENT)


APPLICATION = """
import itertools
from autopack.telemetry import get_telemetry
from tests.write_side import event

requests = itertools.count()
get_telemetry().record(**event(phase_id="before the fork"))

def application(environ, start_response):
    number = next(requests)
    accepted = get_telemetry().record(**event(phase_id=f"request {number}"))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(accepted).encode()]
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gevent", "gunicorn"))), reason="no gunicorn with gevent in this environment"
)
@pytest.mark.parametrize("preload", [["--preload"], []], ids=["preload", "no preload"])
def test_gunicorn_with_gevent_answers_and_writes_all(tmp_path: Path, database: Path, preload: list[str]) -> None:
    """One event comes before the server forks, 40 requests afterwards, then a graceful end."""
    (tmp_path / "served.py").write_text(APPLICATION)
    environment = child_environment({"TELEMETRY_DB_ENABLED": "1", "DATABASE_URL": url_of(database)})
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gunicorn",
            "-k",
            "gevent",
            "-w",
            "1",
            "-b",
            "127.0.0.1:0",
            *preload,
            "served:application",
        ],
        env=environment,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        port = port_of(server)
        with ThreadPoolExecutor(4) as clients:
            assert list(clients.map(lambda _: answer(port), range(40))) == ["True"] * 40
        server.terminate()
        assert server.wait(30) == 0
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.communicate()
    assert sorted(phases_of(database)) == sorted(["before the fork", *(f"request {number}" for number in range(40))])


def port_of(server: "subprocess.Popen[str]") -> int:
    """Where it listens, as it says on standard error before its workers start."""
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", line):
            threading.Thread(target=server.stderr.read, daemon=True).start()  # so that it never waits for a reader
            return int(found[1])
    raise AssertionError("the server does not listen")


def answer(port: int) -> str:
    """What it answers to one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()
