"""Databases that events can go to: SQLite, and memory for tests. `Store` is what a further one has to offer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopack._util.lazy import lazy_names

if TYPE_CHECKING:
    from autopack.telemetry.stores.base import Store, refusal_text
    from autopack.telemetry.stores.by_url import store_for, store_of
    from autopack.telemetry.stores.memory import MemoryStore
    from autopack.telemetry.stores.postgres.errors import translate as translate_postgres
    from autopack.telemetry.stores.sqlite import translate as translate_sqlite

__all__ = ["MemoryStore", "Store", "refusal_text", "store_for", "store_of", "translate_postgres", "translate_sqlite"]

if not TYPE_CHECKING:  # a type checker that sees it accepts every name
    __getattr__ = lazy_names(
        __name__,
        {
            "MemoryStore": "memory",
            "Store": "base",
            "refusal_text": "base",
            "store_for": "by_url",
            "store_of": "by_url",
            "translate_postgres": "postgres.errors:translate",
            "translate_sqlite": "sqlite:translate",
        },
    )
