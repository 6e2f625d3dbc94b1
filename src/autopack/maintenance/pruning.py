"""Old events: how old is old, and their deletion in short transactions, each followed by a pause as long as itself.

SQLite has one writer at a time, and a waiting one retries only now and then: without the pause it would hardly get a
turn. PostgreSQL leaves what was deleted in its indexes until a vacuum: each batch begins where the last one ended,
or it would walk over all of that again. An event whose time cannot be read has no age, and stays.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

from sqlalchemy import Connection, Engine, TextClause, bindparam, text
from sqlalchemy.exc import SQLAlchemyError

from autopack.analysis.reading.rows import reader_of
from autopack.database import engine_for
from autopack.database.destination import Destination
from autopack.errors import ReadError
from autopack.models import TokenEstimationV2Event, UtcDateTime
from autopack.telemetry.engine import Retries, Settings
from autopack.telemetry.stores import translate_postgres, translate_sqlite

LEAST_AGE = timedelta(hours=1)
MOST_AGE = timedelta(days=36_500)
_AGE_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_LONGEST_PAUSE_S = 1.0
_TABLE = TokenEstimationV2Event.__tablename__
_FIRST_DAY = datetime(1, 1, 2, tzinfo=UTC)  # of what is a time in Python, whatever zone it is shown in

# A number would count as older than any text, and so would most words: only what begins like a date has an age.
_OLD_ON_SQLITE = "typeof(timestamp) = 'text' AND timestamp GLOB '[0-9][0-9][0-9][0-9]-*' AND timestamp < :before"
_OLD_ON_POSTGRES = "timestamp >= :since AND timestamp < :before"


class DeletedBatch(NamedTuple):
    """How many events a transaction deleted, and the instant of the last of them; None: the place does not matter."""

    deleted: int
    newest: datetime | None


@dataclass(frozen=True, slots=True)
class Pace:
    """How many events go at once, and how a batch waits: in SQLite for a lock, between tries, and for others to have
    their turn.
    """

    batch_rows: int = 2_000
    busy_timeout_s: float = 5.0
    sleep: Callable[[float], object] = time.sleep
    clock_s: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform


def parse_age(text: str) -> timedelta:
    """An age: a whole number and its unit, s, m, h, d or w.

    Raises:
        ValueError: it is none, or is less than an hour (events of a writer may still be on their way, and a slip in the
            unit is worth a question) or more than a hundred years.

    """
    match = re.fullmatch(r"([0-9]{1,12})([smhdw])", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no age; use a number and s, m, h, d or w, for example 90d")
    number, unit = int(match[1]), _AGE_UNITS[match[2]]
    try:
        age = timedelta(**{unit: number})
    except OverflowError:
        age = MOST_AGE + LEAST_AGE
    if not LEAST_AGE <= age <= MOST_AGE:
        raise ValueError(f"{text!r} is not from 1h to {MOST_AGE.days}d")
    return age


def count_older(destination: Destination, before: datetime) -> int:
    """How many events happened before an instant. Changes nothing.

    Raises `ReadError`: there is no table, it cannot be read, or is an older system's.
    """
    reader = reader_of(destination)
    with reader.connected(destination) as connection:
        present = reader.column_names(connection, _TABLE)
        if not {"timestamp", "run_id", "event_uid"} <= present:
            raise ReadError(f"{destination} has no table {_TABLE} of this program's; autopack db upgrade makes it one")
        old = _OLD_ON_POSTGRES if destination.server else _OLD_ON_SQLITE
        statement = _statement(f"SELECT count(*) FROM {_TABLE} WHERE {old}")  # noqa: S608 (our own text)
        return int(connection.execute(statement, _parameters(statement, since=_FIRST_DAY, before=before)).scalar_one())


def prune(destination: Destination, before: datetime, pace: Pace | None = None) -> Iterator[int]:
    """Delete the events that happened before an instant, oldest first. Gives how many each transaction deleted, as it
    is committed.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: it cannot be done, or not in as many tries as a writer makes. What was deleted
            before is gone.

    """
    pace = pace or Pace()
    engine = engine_for(destination)
    for statement in _POSTGRES if destination.server else _SQLITE:
        since = _FIRST_DAY
        while True:
            began_s = pace.clock_s()
            parameters = _parameters(statement, since=since, before=before, rows=pace.batch_rows)
            batch = _delete_patiently(engine, statement, parameters, pace)
            if not batch.deleted:
                break
            pause_s = min(_LONGEST_PAUSE_S, pace.clock_s() - began_s)
            yield batch.deleted
            since = batch.newest or since
            pace.sleep(pause_s)


def vacuum(destination: Destination) -> None:
    """Give the room of deleted events in a SQLite file back. No writer gets in meanwhile.

    Raises sqlalchemy.exc.SQLAlchemyError.
    """
    with engine_for(destination).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM")


def _delete_patiently(
    engine: Engine, statement: TextClause, parameters: Mapping[str, object], pace: Pace
) -> DeletedBatch:
    retries = Retries(Settings(), started_s=pace.clock_s(), uniform=pace.uniform)
    on_sqlite = engine.dialect.name == "sqlite"
    translate = translate_sqlite if on_sqlite else translate_postgres
    delete = partial(_delete_on_sqlite, pace.busy_timeout_s) if on_sqlite else _delete_on_postgres
    while True:
        try:
            with engine.connect() as connection:
                return delete(connection, statement, parameters)
        except SQLAlchemyError as exc:
            now_s = pace.clock_s()
            if not translate(exc).transient or retries.is_outage(now_s):
                raise
            pace.sleep(retries.delay_s(now_s))


def _delete_on_sqlite(
    busy_timeout_s: float, connection: Connection, statement: TextClause, parameters: Mapping[str, object]
) -> DeletedBatch:
    connection.execution_options(isolation_level="AUTOCOMMIT")
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(busy_timeout_s * 1000)}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        deleted = connection.execute(statement, parameters).rowcount
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    return DeletedBatch(deleted, None)


def _delete_on_postgres(
    connection: Connection, statement: TextClause, parameters: Mapping[str, object]
) -> DeletedBatch:
    with connection.begin():
        connection.exec_driver_sql("SET LOCAL DateStyle = 'ISO'")  # the only one whose instants psycopg reads
        return DeletedBatch(*connection.execute(statement, parameters).one())


def _statement(sql: str) -> TextClause:
    statement = text(sql)
    kinds = {"since": UtcDateTime(), "before": UtcDateTime()}
    return statement.bindparams(*(bindparam(name, type_=kinds[name]) for name in kinds if f":{name}" in sql))


def _parameters(statement: TextClause, **given: object) -> dict[str, object]:
    return {name: value for name, value in given.items() if f":{name}" in statement.text}


def _postgres_statement(own_run: str, key: str) -> TextClause:
    return _statement(f"""
        WITH gone AS (
            DELETE FROM {_TABLE} WHERE {own_run} AND {key} IN (
                SELECT {key.strip("()")} FROM {_TABLE} WHERE {_OLD_ON_POSTGRES} AND {own_run}
                ORDER BY timestamp LIMIT :rows
            ) RETURNING timestamp
        ) SELECT count(*), max(timestamp) FROM gone
    """)  # noqa: S608 (our own text)


_SQLITE = (
    _statement(f"""
        DELETE FROM {_TABLE} WHERE rowid IN (
            SELECT rowid FROM {_TABLE} WHERE {_OLD_ON_SQLITE} ORDER BY timestamp LIMIT :rows
        )
    """),  # noqa: S608 (our own text)
)
# By the key, which every kind of table has: a place in the table (ctid) means nothing where it is in parts. In a table
# that was an older system's a run may be NULL, which no key equals.
_POSTGRES = (
    _postgres_statement("run_id IS NOT NULL", "(run_id, event_uid)"),
    _postgres_statement("run_id IS NULL", "(event_uid)"),
)
