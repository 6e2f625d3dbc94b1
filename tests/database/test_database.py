import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from tests.write_side import event, run_python

from autopack._util.text import mask
from autopack.database import SessionLocal, engine_for
from autopack.database.destination import (
    DEFAULT_DATABASE_URL,
    Destination,
    current_destination,
    database_url,
    describe_database,
    parse_database_url,
)
from autopack.errors import DatabaseUrlError
from autopack.telemetry import ConfigError, Telemetry

IN_MEMORY = Destination("sqlite", None)


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite", "sqlite+pysqlite", "SQLite"])
@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ("", None),
        ("/", None),
        ("/:memory:", None),
        ("/x.db", Path.cwd() / "x.db"),
        ("/a/../b/x.db", Path.cwd() / "b/x.db"),
        ("//data/x.db", Path("/data/x.db")),
        ("/100%25.db", Path.cwd() / "100%25.db"),
        ("/a b.db", Path.cwd() / "a b.db"),
        ("/größe.db", Path.cwd() / "größe.db"),
        ("/[x]#1.db", Path.cwd() / "[x]#1.db"),
    ],
)
def test_every_form_of_a_sqlite_url_names_its_file(scheme: str, rest: str, path: Path | None) -> None:
    assert parse_database_url(f"{scheme}://{rest}") == Destination("sqlite", path)


def test_a_relative_path_is_resolved_at_construction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.chdir(first)
    telemetry = Telemetry("sqlite:///x.db")
    monkeypatch.chdir(second)
    telemetry.record(**event())
    telemetry.close()
    assert (first / "x.db").exists()
    assert not list(second.iterdir())


@pytest.mark.parametrize(
    "name", ["100%.db", "100%25.db", "a?b.db", "a b.db", "größe.db", "#[x]&=@:.db", "'\".db", "-x"]
)
def test_events_reach_a_file_of_any_name(name: str, tmp_path: Path) -> None:
    """A `?` begins the options in a URL, so such a path can only be named by a destination."""
    destination = Destination("sqlite", tmp_path / name)
    with engine_for(destination).connect() as connection:
        connection.execute(text("CREATE TABLE t (x)"))
        connection.commit()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if "?" not in name:
        assert parse_database_url(f"sqlite:///{tmp_path}/{name}") == destination


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "x.db",
        "/data/x.db",
        "mysql://h/d",
        "oracle://h",
        "sqlite:x.db",
        "sqlite:/x.db",
        "sqlite://x.db",
        "sqlite:///file:x.db?uri=true",
        "sqlite:///a\0b",
        "://x",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(DatabaseUrlError, match=r".{20}"):
        parse_database_url(url)


SECRET = "geheim"  # noqa: S105 (what must not appear)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{SECRET}@host/db",
        f"postgresql://user:{SECRET}@host:5432/db?x=a@b:c",
        f"postgresql://:{SECRET}@host/db",
        f"postgresql+asyncpg://user:{SECRET}@/db",
        f"postgresql://user:a@{SECRET}@host/db",
        f"postgresql://user:{SECRET}/{SECRET}@host/db",
        f"postgresql://user:{SECRET}?{SECRET}#{SECRET}@host/db",
        f"postgresql://user:{SECRET}:{SECRET}@host/db",
        f"postgresql://user:a {SECRET}@host/db",
        f"postgresql://user:a\n{SECRET}@host/db",
        f"postgresql://user@server:{SECRET}@host/db",
        f"postgresql://us/er:{SECRET}@host/db",
        f"postgresql://user:{SECRET}@host/db with postgresql://user:{SECRET}@other/db",
        f"postgresql://host/db?user=u&password={SECRET}",
        f"postgresql://host/db?PassWord={SECRET}&x=1",
        f"postgresql://host/db?x=1&sslpassword={SECRET}",
        f"postgresql://host/db?pwd={SECRET}",
        f"postgresql://host/db?passwd={SECRET}",
        f"postgresql://host/db?api_key={SECRET}",
        f"postgresql://host/db?auth_token={SECRET}",
        f"postgresql://host/db;password={SECRET}",
        f"postgresql://host/db?pass%77ord={SECRET}",
        f"postgresql:/user:{SECRET}@host/db",
        f"postgresql//user:{SECRET}@host/db",
        f"user:{SECRET}@host/db",
        f"sqlite:///x.db?password={SECRET}",
    ],
)
def test_a_password_appears_nowhere(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [mask(url)]
    monkeypatch.setenv("DATABASE_URL", url)
    shown.append(describe_database())
    try:
        shown.append(repr(str(parse_database_url(url))))
    except DatabaseUrlError as exc:
        shown.append(f"{exc!r} {exc}")
        with pytest.raises(ConfigError) as caught:
            Telemetry(url)
        shown.append(f"{caught.value!r} {caught.value} {caught.value.__cause__}")
    assert not [line for line in shown if SECRET in line]


@given(
    user=st.text("abcdefgh@./", max_size=8),
    password=st.text("xyz0189@:/?#%&= ", max_size=12).map(lambda middle: f"Q{middle}Q"),
)
def test_a_password_of_any_characters_is_masked(user: str, password: str) -> None:
    assert password not in mask(f"postgresql://{user}:{password}@host:5432/db?sslmode=require")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///x.db",
        "sqlite:////a/b.db?timeout=5",
        "postgresql://host/db?sslmode=require",
        "postgresql://user@host/db",
        "postgresql://host:5432/db",
    ],
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert mask(url) == url


def test_an_empty_variable_counts_as_not_set() -> None:
    assert database_url({"DATABASE_URL": "  "}) == database_url({}) == DEFAULT_DATABASE_URL == "sqlite:///autopack.db"


def test_a_session_is_bound_when_it_is_used_not_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first.db", "second.db"):
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / name}")
        with SessionLocal() as session:
            session.execute(text("CREATE TABLE t (x)"))
            session.commit()
            found = session.execute(text("PRAGMA database_list")).all()
        assert Path(found[0][2]) == tmp_path / name


def test_sessions_and_telemetry_mean_the_same_file_in_a_relative_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "sqlite:///x.db")
    assert current_destination().path == tmp_path / "x.db"
    with Telemetry(database_url()) as telemetry:
        telemetry.record(**event())
    with SessionLocal() as session:
        assert session.execute(text("SELECT count(*) FROM token_estimation_v2_events")).scalar() == 1


def test_the_identity_of_a_database_is_the_file_it_leads_to(tmp_path: Path) -> None:
    """The identity of a database is the file that the path leads to."""
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    link, real = (parse_database_url(f"sqlite:///{tmp_path / name}") for name in ("link.db", "real.db"))
    assert link.identity == real.identity
    assert IN_MEMORY.identity is None


@pytest.mark.slow
def test_a_path_that_is_not_unicode_works(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    run_python(
        """
        from autopack.telemetry import Telemetry
        with Telemetry(os.environ["DATABASE_URL"]) as telemetry:
            telemetry.record(**event())
        assert telemetry.stats().written == 1, telemetry.stats()
        """,
        env={"DATABASE_URL": f"sqlite:///{os.fsdecode(folder)}/x.db"},
    )
    assert (Path(os.fsdecode(folder)) / "x.db").exists()


def test_naming_a_database_imports_no_sqlalchemy() -> None:
    run_python(
        "import autopack.database.destination as d; d.current_destination(); assert 'sqlalchemy' not in sys.modules"
    )


def test_a_relative_url_in_a_removed_directory_is_a_clear_error(tmp_path: Path) -> None:
    """In a working directory that is gone a relative URL is an error that says so."""
    gone = tmp_path / "gone"
    gone.mkdir()
    code = """
        os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])
        from autopack.telemetry import ConfigError, Telemetry, get_telemetry
        os.environ["TELEMETRY_DB_ENABLED"] = "1"
        try:
            Telemetry("sqlite:///x.db")
        except ConfigError as exc:
            assert "directory" in str(exc), exc
        else:
            raise AssertionError
        assert not get_telemetry().enabled
    """
    assert isinstance(run_python(code, gone), subprocess.CompletedProcess)
