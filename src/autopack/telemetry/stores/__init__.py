"""Databases that events can go to: SQLite, and memory for tests. `Store` is what a further one has to offer."""

from autopack.telemetry.stores.base import Store
from autopack.telemetry.stores.memory import MemoryStore

__all__ = ["MemoryStore", "Store"]
