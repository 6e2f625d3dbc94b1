"""Fixtures for every test: an environment without our settings, and places to write to.

What the tests of a file need beside the core of the product stands in `tests.needs`, what a single test needs in
its mark: `@pytest.mark.needs("pyarrow")`. Where it is not installed they are left out.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import postgres as postgres_servers
from tests.needs import NEEDS, missing_of
from tests.recorded import REAL, RecordedRun, made_run, real_run
from tests.write_side import url_of

from autopack.telemetry import lifecycle


@pytest.fixture(autouse=True)
def _environment_without_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TELEMETRY_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file that does not exist yet."""
    return tmp_path / "events.db"


@pytest.fixture
def database_url(database: Path) -> str:
    """The URL of that file."""
    return url_of(database)


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The URL of a real PostgreSQL server."""
    if missing := missing_of(("asyncpg", "psycopg")):
        pytest.skip(f"without {missing}")
    return postgres_servers.server_url()


@pytest.fixture
def postgres(
    postgres_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[postgres_servers.Database]:
    """An empty database on a real PostgreSQL server; what we keep beside it is in the test's own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with postgres_servers.new_database(postgres_server) as database:
        yield database


@pytest.fixture(params=["made", "real"] if REAL else ["made"])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> RecordedRun:
    """A recorded run: one that is made here, and the real one where it lies beside the checkout."""
    return real_run() if request.param == "real" else made_run(tmp_path)


@pytest.fixture
def _nothing_left_running() -> Iterator[None]:
    """Holds the test to closing what it opened."""
    before = set(lifecycle.live)
    yield
    assert set(lifecycle.live) <= before, "a writer still runs"


def _left_out() -> dict[str, str]:
    return {path: missing for path, modules in NEEDS.items() if (missing := missing_of(modules))}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the files whose imports would fail."""
    try:
        path = collection_path.relative_to(Path(__file__).parent)
    except ValueError:
        return None
    left_out = _left_out()
    return True if any(str(part) in left_out for part in (path, *path.parents)) else None


def pytest_report_header() -> list[str]:
    """Which files are left out."""
    return [f"left out without {missing}: tests/{path}" for path, missing in _left_out().items()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests whose mark names what is not installed."""
    for item in items:
        for mark in item.iter_markers("needs"):
            if missing := missing_of(mark.args):
                item.add_marker(pytest.mark.skip(reason=f"without {missing}"))


def pytest_configure() -> None:
    """Before the workers of a run are started."""
    postgres_servers.begin_run()


def pytest_unconfigure(config: pytest.Config) -> None:
    """After they have ended: what they shared is ended by the process that started them."""
    if not hasattr(config, "workerinput"):
        postgres_servers.end_run()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the kill loop goes on, and how much is written to PostgreSQL at once."""
    parser.addoption(
        "--postgres-load",
        type=int,
        nargs=2,
        default=[4, 2_000],
        metavar=("PROCESSES", "EVENTS"),
        help="how many processes write how many events each (default: 4 2000)",
    )
    parser.addoption("--kill-rounds", type=int, default=25, help="rounds of the kill loop (default: 25)")
