"""Revision 0001 on PostgreSQL: the table is made, or an older system's is altered in place.

What could refuse a row (foreign keys, checks) is dropped, and so is a key other than `(run_id, event_uid)`, with its
sequence: a table can be distributed by `run_id` only if every unique key of it holds `run_id`. Columns get their types
in one statement, so that the rows are rewritten once, without firing a trigger. Columns that autopack does not fill
stay, and get a default or may be NULL. The catalogue is read directly: SQLAlchemy's inspection warns of every type that
it does not know.
The caller holds the transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from alembic import op

from autopack.database.migrations.events_table import INDEX, TABLE, UNIQUE, columns, default_for
from autopack.errors import SchemaError

EVENT_UID_DEFAULT = "gen_random_uuid()::text"
KEY = "pk_token_estimation_v2_events"
_IDENTITY = ("run_id", "event_uid")

_WHOLE = {"smallint", "integer", "bigint"}
_TEXT = {"text", "character varying", "character varying(36)"}
_POSITIVE = "predicted_output_tokens > 0 AND actual_output_tokens > 0"
# Computed again for an older row, whatever these columns held before. In doubles, like `estimation.metrics`.
_COMPUTED = {
    "smape_percent": f"""CASE WHEN {_POSITIVE} THEN trunc(
        abs(actual_output_tokens::float8 - predicted_output_tokens::float8)
        / greatest(1, (actual_output_tokens::float8 + predicted_output_tokens::float8) / 2) * 100)::bigint END""",
    "waste_ratio": f"""CASE WHEN {_POSITIVE} THEN
        trunc(least(9e18::float8, predicted_output_tokens::float8 / actual_output_tokens::float8 * 100))::bigint END""",
}
_RANDOM = "md5(gen_random_uuid()::text)"


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the older table. `category`: PostgreSQL's letter for the kind of its type, empty for a domain."""

    name: str
    type: str
    category: str
    required: bool
    filled: bool
    identity: bool
    key: bool


def upgrade() -> None:
    """Make the table, or alter the one that is there."""
    bind = op.get_bind()
    if bind.execute(sa.text("SELECT to_regclass(:table)"), {"table": TABLE}).scalar() is None:
        create()
        return
    for statement in _statements(bind):
        bind.exec_driver_sql(statement)
    op.create_index(INDEX, TABLE, ["timestamp"], if_not_exists=True)


def create() -> None:
    """Make the table where there is none."""
    op.create_table(TABLE, *columns(EVENT_UID_DEFAULT), sa.PrimaryKeyConstraint(*_IDENTITY, name=KEY))
    op.create_index(INDEX, TABLE, ["timestamp"])


def _statements(bind: sa.Connection) -> Iterator[str]:
    quote = bind.dialect.identifier_preparer.quote
    yield from _without_constraints(bind)
    keeps_key = _key_has_to_stay(bind)
    if not keeps_key:
        yield from _without_key(bind)
    old = {column.name: column for column in columns_of(bind)}
    if "event_id" in old and old["event_id"].type not in _WHOLE:
        yield f"ALTER TABLE {TABLE} RENAME COLUMN event_id TO former_event_id"
        old = {column.name: column for column in columns_of(bind)}
    wanted = {column.name: column for column in columns()}
    yield from _additions(bind, wanted, old)
    changed = dict(_conversions(wanted, old))
    if changed:
        refuse_views(bind)
    yield from altered([*_without_defaults(changed, old), *changed.values()])
    foreign = [column for column in old.values() if column.name not in wanted]
    yield from altered([*_loosened(foreign, quote), *_keyed(old, keeps_key=keeps_key)])


def altered(actions: Sequence[str]) -> Iterator[str]:
    if actions:
        yield f"ALTER TABLE {TABLE} {', '.join(actions)}"


def _without_constraints(bind: sa.Connection) -> Iterator[str]:
    quote = bind.dialect.identifier_preparer.quote
    found = bind.execute(
        sa.text("SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(:table) AND contype IN ('f', 'c')"),
        {"table": TABLE},
    )
    yield from altered([f"DROP CONSTRAINT {quote(name)}" for name in found.scalars()])


def _key_has_to_stay(bind: sa.Connection) -> bool:
    """Whether the older table's key is `(run_id, event_uid)` already, or another table refers to it."""
    key = {column.name for column in columns_of(bind) if column.key}
    referred = bind.execute(
        sa.text("SELECT count(*) FROM pg_constraint WHERE confrelid = to_regclass(:table) AND contype = 'f'"),
        {"table": TABLE},
    ).scalar_one()
    return key == set(_IDENTITY) or bool(key and referred)


def _without_key(bind: sa.Connection) -> Iterator[str]:
    quote = bind.dialect.identifier_preparer.quote
    key = bind.execute(
        sa.text("SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(:table) AND contype = 'p'"),
        {"table": TABLE},
    ).scalar()
    if key is not None:
        yield f"ALTER TABLE {TABLE} DROP CONSTRAINT {quote(key)}"
    for column in columns_of(bind):
        if column.name == "event_id" and column.type in _WHOLE:
            yield f"ALTER TABLE {TABLE} ALTER COLUMN event_id DROP IDENTITY IF EXISTS"
            yield f"ALTER TABLE {TABLE} ALTER COLUMN event_id DROP NOT NULL, ALTER COLUMN event_id DROP DEFAULT"


def columns_of(bind: sa.Connection) -> list[_Column]:
    found = bind.execute(
        sa.text("""
            SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
                CASE WHEN t.typtype = 'd' THEN '' ELSE t.typcategory::text END AS category, a.attnotnull AS required,
                a.atthasdef OR a.attidentity <> '' AS filled, a.attidentity <> '' AS identity,
                EXISTS (SELECT 1 FROM pg_constraint k
                    WHERE k.conrelid = a.attrelid AND k.contype = 'p' AND a.attnum = ANY (k.conkey)) AS key
            FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = to_regclass(:table) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
        """),
        {"table": TABLE},
    )
    return [_Column(*row) for row in found]


def _additions(bind: sa.Connection, wanted: Mapping[str, sa.Column[Any]], old: Mapping[str, _Column]) -> Iterator[str]:
    """Add the columns that the older table lacks; a required one gets a default for the rows that are there only."""
    added, required = [], []
    for column in (column for name, column in wanted.items() if name not in old):
        definition = f'ADD COLUMN "{column.name}" {column.type.compile(bind.dialect)}'
        if not column.nullable and column.name != "event_uid":
            default = "false" if isinstance(column.type, sa.Boolean) else default_for(column.type)
            definition += f" NOT NULL DEFAULT {default}"
            required.append(f'ALTER COLUMN "{column.name}" DROP DEFAULT')
        added.append(definition)
    yield from altered(added)
    yield from altered(required)


def _conversions(wanted: Mapping[str, sa.Column[Any]], old: Mapping[str, _Column]) -> Iterator[tuple[str, str]]:
    """Yield each column that changes its type or its values, with the action that changes it."""
    yield "event_uid", _retyped("event_uid", "varchar(36)", f"coalesce(event_uid::text, {_event_uid()})")
    both = {"predicted_output_tokens", "actual_output_tokens"} <= old.keys()
    for name, column in wanted.items():
        if name == "event_uid":
            continue
        if name in _COMPUTED and both:
            yield name, _retyped(name, "bigint", _COMPUTED[name])
        elif name in old and (conversion := _conversion(old[name], column.type)):
            yield name, conversion


def _conversion(column: _Column, wanted: sa.types.TypeEngine[Any]) -> str | None:
    quoted = f'"{column.name}"'
    match wanted:
        case sa.DateTime() if column.type == "timestamp without time zone":
            return _retyped(column.name, "timestamptz", f"{quoted} AT TIME ZONE 'UTC'")
        case sa.DateTime() if column.type != "timestamp with time zone":
            return _retyped(column.name, "timestamptz", f"{quoted}::text::timestamptz")
        case sa.Boolean() if column.type != "boolean":
            return _retyped(
                column.name, "boolean", f"{quoted} <> 0" if column.category == "N" else f"{quoted}::boolean"
            )
        case sa.Integer() if column.type != "bigint":
            whole = quoted if column.type in _WHOLE else f"trunc({quoted}::text::numeric)::bigint"
            return _retyped(column.name, "bigint", whole)
        case sa.String() if column.type not in _TEXT:
            return _retyped(column.name, "text", f"{quoted}::text")
    return None


def _retyped(name: str, type_: str, expression: str) -> str:
    return f'ALTER COLUMN "{name}" TYPE {type_} USING {expression}'


def _event_uid() -> str:
    """Return an expression for a UUID of version 7: 48 bits of milliseconds from its timestamp, the rest random."""
    # `timestamp` is still as the older table has it: any type of instant casts to this one, in UTC.
    instant = '"timestamp"::text::timestamptz'
    milliseconds = f"""lpad(to_hex(least(281474976710655, greatest(0, CASE WHEN isfinite({instant})
        THEN extract(epoch FROM {instant}) * 1000 ELSE 0 END))::bigint), 12, '0')"""
    return (
        f"substr({milliseconds}, 1, 8) || '-' || substr({milliseconds}, 9, 4) || '-7' || substr({_RANDOM}, 1, 3) "
        f"|| '-8' || substr({_RANDOM}, 1, 3) || '-' || substr({_RANDOM}, 1, 12)"
    )


def _without_defaults(changed: Mapping[str, str], old: Mapping[str, _Column]) -> list[str]:
    """Drop the defaults of columns that change their type: PostgreSQL cannot convert them."""
    return [
        f'ALTER COLUMN "{name}" DROP DEFAULT'
        for name in changed
        if name in old and old[name].filled and not old[name].identity and name != "event_id"
    ]


def refuse_views(bind: sa.Connection) -> None:
    """Raises SchemaError where a view shows the table: PostgreSQL changes no column that one depends on."""
    found = bind.execute(
        sa.text("""
            SELECT DISTINCT r.ev_class::regclass::text AS name FROM pg_depend d
            JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
            WHERE d.refobjid = to_regclass(:table) AND r.ev_class <> to_regclass(:table) ORDER BY 1
        """),
        {"table": TABLE},
    )
    if views := list(found.scalars()):
        raise SchemaError(
            f"the columns of {TABLE} cannot change while a view shows them: drop {', '.join(views)}, "
            "start again, and make the views again"
        )


def _loosened(foreign: Sequence[_Column], quote: Any) -> Iterator[str]:
    """Give the columns that autopack does not fill a default, or let them be NULL, so that its rows can be written."""
    for column in foreign:
        if not column.required or column.filled:
            continue
        default = None if column.key else _default_of(column)
        yield f"ALTER COLUMN {quote(column.name)} " + ("DROP NOT NULL" if default is None else f"SET DEFAULT {default}")


def _default_of(column: _Column) -> str | None:
    match column.category, column.type:
        case "N", _:
            return "0"
        case "B", _:
            return "false"
        case "D", "date" | "timestamp without time zone" | "timestamp with time zone":
            return "CURRENT_TIMESTAMP"
        case "S", "text":
            return "'[]'"
        case "S", "character varying":
            return "'unknown'"
    return None


def _keyed(old: Mapping[str, _Column], *, keeps_key: bool) -> list[str]:
    """Make the identity of a row its key, or a constraint where another key stays or a run may be NULL."""
    key = {column.name for column in old.values() if column.key}
    if key == set(_IDENTITY):
        return []
    pair = ", ".join(_IDENTITY)
    primary = not keeps_key and ("run_id" not in old or old["run_id"].required)
    constraint = f"{KEY} PRIMARY KEY" if primary else f"{UNIQUE} UNIQUE"
    return ["ALTER COLUMN event_uid SET NOT NULL", f"ADD CONSTRAINT {constraint} ({pair})"]
