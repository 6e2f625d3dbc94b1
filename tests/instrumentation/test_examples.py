"""The programs under `examples/`, run as a user runs them, with the unmodified SDKs against loopback servers."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.instrumentation.recording import Script, a_reply
from tests.openai_loopback import Answer, serve_openai
from tests.postgres import Database
from tests.write_side import PACKAGE, ROOT, TABLE

from autopack.loopback.server import serve_messages

EXAMPLES = ROOT / "examples"
COLUMNS = "run_id, phase_id, category, actual_output_tokens, actual_max_tokens, provider, attempt, turn, stop_reason"


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def anthropic_url(script: Script) -> Iterator[str]:
    with serve_messages(script) as url:
        yield url


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(PACKAGE.parent),
        "TELEMETRY_DB_ENABLED": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "no_proxy": "*",
        "ANTHROPIC_API_KEY": "sk-secret-key",
        "OPENAI_API_KEY": "sk-secret-key",
        **more,
    }


def run(name: str, variables: Mapping[str, str], folder: Path) -> str:
    child = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env=dict(variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


def rows(folder: Path) -> list[Any]:
    with sqlite3.connect(folder / "autopack.db") as connection:
        return connection.execute(f"SELECT {COLUMNS} FROM {TABLE} ORDER BY event_uid").fetchall()


@pytest.mark.parametrize("name", ["agent.py", "batch.py", "service.py"])
def test_an_example_needs_three_lines_and_none_at_the_call(name: str) -> None:
    lines = [line for line in (EXAMPLES / name).read_text().splitlines() if "autopack." in line and "'" not in line]
    assert len(lines) <= 3, lines


@pytest.mark.slow
def test_the_agent_records_each_turn(script: Script, anthropic_url: str, tmp_path: Path) -> None:
    script.answers += [a_reply(21, "tool_use"), a_reply(22, "tool_use"), a_reply(1218)]
    printed = run("agent.py", environment(ANTHROPIC_BASE_URL=anthropic_url), tmp_path)
    assert printed.splitlines() == ["tool_use 21", "tool_use 22", "end_turn 1218"]
    assert rows(tmp_path) == [
        ("agent-1", "rename", "refactoring", tokens, 4096, "anthropic", 1, turn, reason)
        for turn, (tokens, reason) in enumerate([(21, "tool_use"), (22, "tool_use"), (1218, "end_turn")], 1)
    ]


@pytest.mark.slow
def test_the_batch_records_every_call_of_every_sdk(tmp_path: Path) -> None:
    """From four threads, each item a phase of its own: fifteen calls, of the counts that the server sent."""
    pytest.importorskip("openai")
    pytest.importorskip("litellm")
    with serve_openai() as server:
        server.default = Answer(50)
        printed = run("batch.py", environment(OPENAI_BASE_URL=server.url, OPENAI_API_BASE=server.url), tmp_path)
        assert len(server.requests) == 15
    assert printed.splitlines()[-1] == "750"
    found = rows(tmp_path)
    assert [row[3] for row in found] == [50] * 15
    assert {row[2] for row in found} == {"extraction"}
    assert len({row[1] for row in found}) == 5
    assert sorted(row[4] for row in found) == [512] * 10 + [1024] * 5


def _wait(until: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 60
    while not until():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)  # another program's start, which announces nothing


@pytest.mark.slow
def test_the_service_records_from_its_worker_processes(anthropic_url: str, tmp_path: Path, postgres: Database) -> None:
    """FastAPI under gunicorn, two workers, PostgreSQL: every request is a row, whichever worker served it."""
    pytest.importorskip("fastapi")
    pytest.importorskip("gunicorn")
    import httpx2

    socket_path = tmp_path / "s"
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-k", "asgi", "-w", "2", "-b", f"unix:{socket_path}", "service:app"],
        env=environment(
            ANTHROPIC_BASE_URL=anthropic_url,
            DATABASE_URL=postgres.url,
            TELEMETRY_JOURNAL_DIR=str(tmp_path / "journal"),
            PYTHONPATH=f"{PACKAGE.parent}{os.pathsep}{EXAMPLES}",
        ),
        cwd=tmp_path,
    )
    try:
        _wait(socket_path.exists, process)
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket_path)), timeout=60) as client:
            answers = []
            for number in range(40):
                response = client.post(f"http://service/answer/{number}", headers={"connection": "close"})
                response.raise_for_status()
                answers.append(response.json())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert [answer["tokens"] for answer in answers] == [77] * 40
    found = postgres.execute(f"SELECT {COLUMNS} FROM {TABLE}")
    assert [row["actual_output_tokens"] for row in found] == [77] * 40
    assert {row["category"] for row in found} == {"answers"}
    assert len({row["phase_id"] for row in found}) == 40
    assert {row["run_id"].startswith("process-") for row in found} == {True}
