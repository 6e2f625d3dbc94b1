"""The schema of a new SQLite database, made from written statements, is the one that the migrations make."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.write_side import run_python, url_of

from autopack.database import engine_for
from autopack.database.destination import parse_database_url
from autopack.database.migrations import VERSION_TABLE, ensure, fresh
from autopack.telemetry.event.schema import TABLE

LOADED = """
heavy = {"sqlalchemy", "alembic", "mako", "pygments", "configparser", "rich"}
from autopack.telemetry import Telemetry
with Telemetry(sys.argv[1]) as telemetry:
    assert telemetry.record(**event())
assert telemetry.stats().written == 1, telemetry.stats()
print(*sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


def facts_of(path: Path) -> Iterator[Any]:
    """What SQLite knows of the schema, but for the order of the columns and the text that made them."""
    with closing(sqlite3.connect(path)) as connection:
        for table in (TABLE.name, VERSION_TABLE):
            yield sorted(row[1:] for row in connection.execute(f"PRAGMA table_info({table})"))
            for _, index, unique, origin, partial in sorted(connection.execute(f"PRAGMA index_list({table})")):
                yield unique, origin, partial, [row[2] for row in connection.execute(f"PRAGMA index_info('{index}')")]
            yield connection.execute(f"PRAGMA foreign_key_list({table})").fetchall()
        yield connection.execute(f"SELECT * FROM {VERSION_TABLE}").fetchall()


def test_a_fresh_schema_is_what_the_migrations_make(tmp_path: Path) -> None:
    migrated, made = tmp_path / "migrated.db", tmp_path / "made.db"
    with engine_for(parse_database_url(url_of(migrated))).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        ensure(connection)
    with closing(sqlite3.connect(made)) as connection:
        for statement in fresh.SQLITE:
            connection.execute(statement)
        connection.commit()
    assert list(facts_of(made)) == list(facts_of(migrated))


def test_a_writer_on_a_new_database_loads_neither_sqlalchemy_nor_alembic(database_url: str) -> None:
    assert run_python(LOADED, database_url).stdout == "\n"


def test_a_writer_on_a_current_database_loads_neither_of_them(database_url: str) -> None:
    run_python(LOADED, database_url)
    assert run_python(LOADED, database_url).stdout == "\n"


def test_a_writer_in_memory_loads_neither_of_them() -> None:
    assert run_python(LOADED, "sqlite://").stdout == "\n"


def test_an_older_schema_is_what_they_are_loaded_for(database: Path, database_url: str) -> None:
    """One of revision 0001, as it was before calls were captured."""
    run_python(LOADED, database_url)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"ALTER TABLE {TABLE.name} DROP COLUMN provider")
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0001'")
        connection.commit()
    assert "sqlalchemy" in run_python(LOADED, database_url).stdout
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute(f"SELECT count(*), count(provider) FROM {TABLE.name}").fetchone() == (2, 0)
