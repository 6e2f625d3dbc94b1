"""URLs of PostgreSQL: every form that is in use names its database, and nothing that is asked for is ignored."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.write_side import run_python

from autopack._util.text import mask
from autopack.database.destination import Destination, parse_database_url
from autopack.database.postgres_urls import Address, PostgresUrl, parse_postgres_url, psycopg_arguments
from autopack.errors import DatabaseUrlError

SECRET = "geheim"  # noqa: S105 (what must not appear)


def parsed(url: str, **environ: str) -> PostgresUrl:
    return parse_postgres_url(url.partition("://")[2], environ)


@pytest.mark.parametrize(
    "scheme",
    ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2", "PostgreSQL"],
)
def test_every_scheme_names_the_same_database(scheme: str) -> None:
    destination = parse_database_url(f"{scheme}://u@h/d")
    assert destination == parse_database_url("postgresql://u@h:5432/d")
    assert (destination.dialect, destination.path, destination.in_memory) == ("postgresql", None, False)
    assert destination.exists()


@pytest.mark.parametrize(
    ("url", "addresses", "database"),
    [
        ("postgresql://h/d", [("h", 5432)], "d"),
        ("postgresql://h:77/d", [("h", 77)], "d"),
        ("postgresql://h", [("h", 5432)], ""),
        ("postgresql://h1:1,h2:2/d", [("h1", 1), ("h2", 2)], "d"),
        ("postgresql://h1,h2/d?port=1,2", [("h1", 1), ("h2", 2)], "d"),
        ("postgresql://h1,h2/d?port=9", [("h1", 9), ("h2", 9)], "d"),
        ("postgresql://[::1]:77/d", [("::1", 77)], "d"),
        ("postgresql://[::1],h/d", [("::1", 5432), ("h", 5432)], "d"),
        ("postgresql:///d?host=/socket/dir", [("/socket/dir", 5432)], "d"),
        ("postgresql:///d?host=/socket/dir&port=9", [("/socket/dir", 9)], "d"),
        ("postgresql://%2Fsocket%2Fdir:9/d", [("/socket/dir", 9)], "d"),
        ("postgresql://u@/d?host=h1,h2", [("h1", 5432), ("h2", 5432)], "d"),
        ("postgresql:///", [("", 5432)], ""),
        ("postgresql://:9/d", [("", 9)], "d"),
        ("postgresql://h/a%2Fb%20c", [("h", 5432)], "a/b c"),
        ("postgresql://h/?dbname=d", [("h", 5432)], "d"),
        ("postgresql:///d?service=s", [("", None)], "d"),
    ],
)
def test_every_form_names_its_servers_and_its_database(
    url: str, addresses: list[tuple[str, int]], database: str
) -> None:
    found = parsed(url)
    assert found.addresses == tuple(Address(*address) for address in addresses)
    assert found.database == database


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("postgresql://u:p@h/d", "u", "p"),
        ("postgresql://u@h/d", "u", None),
        ("postgresql://h/d", None, None),
        ("postgresql://:p@h/d", None, "p"),
        ("postgresql://u:a/b@c:d@h/d", "u", "a/b@c:d"),
        ("postgresql://u@srv:p@h/d", "u@srv", "p"),
        ("postgresql://u:p%40%3F%2B+%25@h/d", "u", "p@?++%"),
        ("postgresql://h/d?user=u&password=a%26b+c", "u", "a&b+c"),
        ("postgresql://x:y@h/d?user=u&password=p", "u", "p"),
    ],
)
def test_user_and_password_are_read_from_wherever_they_stand(url: str, user: str | None, password: str | None) -> None:
    found = parsed(url)
    assert (found.user, found.password) == (user, password)


def test_what_a_url_leaves_open_is_what_the_environment_says() -> None:
    environ = {"PGHOST": "h1,h2", "PGPORT": "1,2", "PGUSER": "u", "PGDATABASE": "d"}
    found = parsed("postgresql://", **environ)
    assert found == PostgresUrl((Address("h1", 1), Address("h2", 2)), "d", "u")
    assert parsed("postgresql://x@y:3/z", PGHOST="h", PGPORT="9", PGUSER="u", PGDATABASE="d") == PostgresUrl(
        (Address("y", 3),), "z", "x"
    )
    assert parsed("postgresql://?service=s", **environ).addresses == (Address("", None),)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://h/d?search_path=x", "search_path"),
        ("postgresql://h/d?sslmode=on", "verify-full"),
        ("postgresql://h/d?connect_timeout=soon", "connect_timeout"),
        ("postgresql://h/d?target_session_attrs=leader", "read-write"),
        ("postgresql://h/d?channel_binding=require", "channel_binding"),
        ("postgresql://h/d?gssencmode=require", "gssencmode"),
        ("postgresql://h/d?hostaddr=1.2.3.4", "hostaddr"),
        ("postgresql://h/d?requirepeer=x", "requirepeer"),
        ("postgresql://h/d?sslmode", "name=value"),
        ("postgresql://h:x/d", "port"),
        ("postgresql://h:0/d", "port"),
        ("postgresql://h:65536/d", "port"),
        ("postgresql://h:٣/d", "port"),
        ("postgresql://h1,h2,h3/d?port=1,2", "2 ports for 3 hosts"),
        ("postgresql://[::1/d", "IPv6"),
        ("postgresql://a:b:c/d", "host"),
        ("postgresql://h/d%00", "NUL"),
        ("postgresql://h/d;application_name=x", "follow a"),
        (f"postgresql://u:{SECRET}?{SECRET}@h/d", "%3F"),
        (f"postgresql://u:{SECRET}@:/?#{SECRET}@h/d", "%23"),
        (f"postgresql://u:{SECRET}@ h/d", "host cannot be read"),
    ],
)
def test_a_url_that_cannot_be_honoured_is_refused_with_the_reason(url: str, named: str) -> None:
    """A URL that cannot be honoured is refused, and the reason is named."""
    with pytest.raises(DatabaseUrlError, match=r".{20}") as caught:
        parse_database_url(url)
    assert named in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        "sslmode=require",
        "sslmode=verify-full&sslrootcert=/ca.pem",
        "application_name=x",
        "connect_timeout=10",
        "options=-c%20search_path%3Dx",
        "target_session_attrs=read-write",
        "keepalives=1&keepalives_idle=30",
        "channel_binding=prefer",
        "gssencmode=disable",
        "client_encoding=utf8",
        "load_balance_hosts=random",
        "prepared_statement_cache_size=0",
        "pgbouncer=true",
        "ssl=true",
        "ssl=verify-full",
        "sslpassword=x",
        "service=s",
    ],
)
def test_the_options_of_real_urls_are_accepted(option: str) -> None:
    assert parse_database_url(f"postgresql://h/d?{option}").server is not None


def test_one_database_has_one_identity_however_it_is_written() -> None:
    """The same database has one identity however its URL is written, and another database has another."""
    same = ["postgresql://u:p@H:5432/d", "postgres://other@h/d?sslmode=require", "postgresql+psycopg://h/d?user=x"]
    other = [
        "postgresql://h:1/d",
        "postgresql://h/e",
        "postgresql://i/d",
        "postgresql://h/d?options=-csearch_path%3Dx",
        "postgresql://h/d?service=s",
        "postgresql:///d?host=/h",
        "postgresql:///d?host=/H",
    ]
    identities = [parse_database_url(url).identity for url in same + other]
    assert len(set(identities[: len(same)])) == 1
    assert len(set(identities)) == 1 + len(other)
    assert parse_database_url("postgresql://a,b/d").identity == parse_database_url("postgresql://b,a/d").identity


def test_each_database_has_a_folder_in_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journal and dead letters are in the user's state directory, in one folder for each database."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder, other = (parse_database_url(f"postgresql://u:p@db.example.org/{name}").telemetry_dir for name in "ab")
    assert folder is not None
    assert folder.parent == tmp_path / "autopack"
    assert folder.name.startswith("postgresql-db.example.org-a-")
    assert folder != other
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    found = parse_database_url("postgresql://h/a").telemetry_dir
    assert found is not None
    assert found.parent == Path("/home/somebody/.local/state/autopack")


@pytest.mark.parametrize("name", ["../../x", "a/b", "x" * 300, "größe", "\x1b[31m"])
def test_a_hostile_name_of_a_database_stays_one_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    server = PostgresUrl((Address("h", 5432),), name)
    folder = Destination("postgresql", None, server=server).telemetry_dir
    assert folder is not None
    assert folder.parent == Path("/state/autopack")
    assert folder.name.isascii()
    assert folder.name.isprintable()
    assert len(folder.name) < 100


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@given(host=st.from_regex(r"[a-z]{1,8}", fullmatch=True), database=words, user=words, password=words)
def test_what_is_encoded_into_a_url_is_read_out_of_it(host: str, database: str, user: str, password: str) -> None:
    url = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{host}/{quote(database, safe='')}"
    found = parsed(url)
    assert (found.user, found.password, found.database) == (user, password, database)
    assert parsed(str(found)) == PostgresUrl(found.addresses, database, user, "***")


@given(st.text("pgh:/?@#&=%,;[]+ 0xX", max_size=30))
def test_any_text_is_a_destination_or_refused(rest: str) -> None:
    try:
        shown = str(parse_database_url(f"postgresql://{rest}"))
    except DatabaseUrlError:
        return
    assert mask(shown) == shown


def test_the_synchronous_driver_is_told_the_same() -> None:
    found = psycopg_arguments(parsed("postgresql://u:p@h1:1,h2:2/d?sslmode=require&connect_timeout=9"))
    assert found == {
        "host": "h1,h2",
        "port": "1,2",
        "dbname": "d",
        "user": "u",
        "password": "p",
        "sslmode": "require",
        "connect_timeout": "9",
        "application_name": "autopack",
    }
    assert "host" not in psycopg_arguments(parsed("postgresql:///d"))


def test_a_password_is_in_no_representation() -> None:
    urls = [
        f"postgresql://u:{SECRET}@h/d",
        f"postgresql://h/d?password={SECRET}",
        f"postgresql://h/d?sslpassword={SECRET}",
    ]
    shown = [f"{d} {d!r} {d.identity} {d.telemetry_dir}" for d in map(parse_database_url, urls)]
    assert not [line for line in shown if SECRET in line]


def test_naming_a_server_imports_no_driver() -> None:
    code = """
        import json
        from autopack.database.destination import parse_database_url
        parse_database_url("postgresql://h/d")
        print(json.dumps([name for name in ("sqlalchemy", "asyncpg", "psycopg") if name in sys.modules]))
    """
    assert json.loads(run_python(code).stdout) == []
