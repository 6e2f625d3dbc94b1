"""Off means off, nothing of the content is at rest, and what type checkers see."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from tests.instrumentation.recording import CHAT, MESSAGES, USAGE, Script, a_reply
from tests.openai_loopback import Answer, serve_openai

import autopack
from autopack.telemetry import Telemetry

HEAVY = ("sqlalchemy", "opentelemetry.sdk", "litellm", "msgspec", "httpx2", "openai")


def run(code: str, **environment: str) -> str:
    child = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return child.stdout


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import autopack; print(sorted(set(sys.modules) - before))"
    loaded = [name for name in eval(run(code)) if not name.startswith("autopack")]  # noqa: S307 (a list of our own)
    assert not [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names]


def test_off_means_off(tmp_path: Path) -> None:
    """The client is the client itself; a phase offers a ceiling all the same; nothing heavy is loaded."""
    code = (
        "import sys, autopack\n"
        "client = object()\n"
        "assert autopack.instrument(client) is client\n"
        "with autopack.phase('p') as phase: print(phase.max_tokens, phase.basis)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        "with autopack.phase('p', category='refactoring') as phase: print(phase.max_tokens, phase.basis)\n"
    )
    printed = run(code, TELEMETRY_DB_ENABLED="", DATABASE_URL=f"sqlite:///{tmp_path}/off.db")
    assert printed.splitlines() == ["16384 default", "[]", "12288 coefficients"]
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_client_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"anthropic and openai, not builtins\.object"):
        autopack.instrument(object(), telemetry=Telemetry("sqlite:///:memory:"))


def test_nothing_of_the_content_is_at_rest(tmp_path: Path, url: str, script: Script) -> None:
    """Database and journal are searched for the prompt, the output, the tool's input and the key."""
    path = tmp_path / "events.db"
    traces_itself = "open_telemetry" in inspect.signature(anthropic.Anthropic).parameters  # from 2.0 on
    with_content: Any = {"open_telemetry": {"traces": {"content_mode": "content"}}} if traces_itself else {}
    with Telemetry(f"sqlite:///{path}") as telemetry, httpx2.Client(trust_env=False) as http_client:
        client = autopack.instrument(
            anthropic.Anthropic(
                base_url=url,
                api_key="sk-secret-key",
                http_client=http_client,
                max_retries=0,
                **with_content,
            ),
            telemetry=telemetry,
        )
        with autopack.phase("p3", run_id="r", attributes={"git": "3f2a91c"}):
            client.messages.create(**MESSAGES, system="secret-system")
            list(client.messages.create(stream=True, **MESSAGES))
            script.answers.append(a_reply(drops=True))
            with pytest.raises(httpx2.RemoteProtocolError):
                list(client.messages.create(stream=True, **MESSAGES))
            _ask_openai(telemetry, http_client)
        found = _bytes_below(tmp_path)  # before the flush: the journal holds events still
        assert telemetry.flush(20)
        assert telemetry.stats().written >= 2
        found += _bytes_below(tmp_path)
    found += _bytes_below(tmp_path)
    assert b"claude-x" in found
    assert b"3f2a91c" in found
    assert b"secret" not in found


def _ask_openai(telemetry: Telemetry, http_client: httpx2.Client) -> None:
    try:
        import openai
    except ImportError:
        return
    with serve_openai() as server:
        server.default = Answer(text="secret-output", finish="tool_calls")
        client = autopack.instrument(
            openai.OpenAI(base_url=server.url, api_key="sk-secret-key", http_client=http_client), telemetry=telemetry
        )
        client.chat.completions.create(**CHAT, user="secret-user")
        list(client.chat.completions.create(**CHAT, **USAGE))


def _bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_counts_are_in_the_stats(url: str, script: Script) -> None:
    from autopack.loopback.replies import Refusal

    with Telemetry("sqlite:///:memory:") as telemetry, httpx2.Client(trust_env=False) as http_client:
        client = autopack.instrument(
            anthropic.Anthropic(base_url=url, api_key="k", http_client=http_client, max_retries=0), telemetry=telemetry
        )
        before = telemetry.stats()
        script.answers.append(Refusal(400, "invalid_request_error", "no"))
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(**MESSAGES)
        client.messages.create(**MESSAGES)
        after = telemetry.stats()
    assert after.not_recorded["error_400"] == before.not_recorded.get("error_400", 0) + 1
    assert after.unattributed == before.unattributed + 1


USER = """
from anthropic import AsyncAnthropic, Anthropic
import autopack

client = autopack.instrument(AsyncAnthropic(api_key="k"))
other: Anthropic = autopack.instrument(Anthropic(api_key="k"))

@autopack.phase(category="extraction")
def extract(item: str) -> int:
    return len(item)

async def ask() -> str | None:
    with autopack.phase("p3", run_id="r", deliverables=["a.py"], attributes={"git": "1"}) as phase:
        ceiling: int = phase.max_tokens
        reply = await client.messages.create(max_tokens=ceiling, model="m", messages=[])
        bound = autopack.bind(extract)
        size: int = bound("x")
        return reply.stop_reason if size else None
"""
WRONG = [
    ('autopack.phase("p", catagory="x")', "catagory"),
    ('autopack.phase("p", attempt="x")', "attempt"),
    ("client.massages", "massages"),
    ("extract(5)", "extract"),
    ('autopack.instrument(other, unattributed="lose")', "lose"),
]


def _mypy(path: Path, text: str) -> str:
    path.write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", str(path)]
    child = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent, env=_with_source())
    return child.stdout


def _with_source() -> dict[str, str]:
    source = str(Path(autopack.__file__).parent.parent)
    return {**os.environ, "MYPYPATH": source}


@pytest.mark.slow
def test_a_users_program_is_typed(tmp_path: Path) -> None:
    """`instrument` keeps the client's type, decorators keep the function's; a misspelt field is an error."""
    pytest.importorskip("mypy")
    wrong = "\n".join(f"{line}  # wrong" for line, _ in WRONG)
    lines = (USER + wrong).splitlines()
    printed = _mypy(tmp_path / "program.py", USER + wrong)
    at_fault = {int(line.split(":")[1]) for line in printed.splitlines() if line.startswith("program.py:")}
    assert at_fault == {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}, printed


@pytest.mark.slow
def test_pyright_agrees(tmp_path: Path) -> None:
    """Its fork basedpyright, with pyright's strict rules: it is installed as any other package."""
    pytest.importorskip("basedpyright")
    wrong = "\n".join(f"{line}  # wrong" for line, _ in WRONG)
    lines = (USER + wrong).splitlines()
    path = tmp_path / "program.py"
    path.write_text(USER + wrong)
    source = _with_source()["MYPYPATH"]
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [source], "typeCheckingMode": "strict"}))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, str(path)]
    child = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    said: list[dict[str, Any]] = json.loads(child.stdout)["generalDiagnostics"]
    at_fault = {found["range"]["start"]["line"] + 1 for found in said if found["severity"] == "error"}
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert at_fault >= expected, said
    unexpected = [found for found in said if found["range"]["start"]["line"] + 1 not in expected]
    assert [found for found in unexpected if found["severity"] == "error"] == []
