"""Many rows that are at hand, written through a store: with a writer's patience, and what is refused told apart."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import anyio

from autopack.errors import DataRejectedError, StoreError
from autopack.telemetry.engine import Retries, Settings
from autopack.telemetry.event import Row
from autopack.telemetry.stores import Store


async def write_or_isolate(store: Store, rows: Sequence[Row], first: int = 0) -> tuple[int, dict[int, str]]:
    """Write the rows, at most a store's batch; returns how many were new, and the code of each that was refused.

    Those are found by halving, and numbered from `first`; all others are in the database then.

    Raises:
        TransientStoreError, StoreUnusableError: the database cannot be written, after as many tries as a writer makes
            before it calls that an outage.

    """
    if not rows:
        return 0, {}
    try:
        return await _write(store, rows), {}
    except DataRejectedError as exc:
        if len(rows) == 1:
            return 0, {first: exc.code}
    middle = len(rows) // 2
    new, refused = await write_or_isolate(store, rows[:middle], first)
    more, also_refused = await write_or_isolate(store, rows[middle:], first + middle)
    return new + more, refused | also_refused


async def _write(store: Store, rows: Sequence[Row]) -> int:
    retries = Retries(Settings(), started_s=time.monotonic(), uniform=random.uniform)
    while True:
        try:
            return await store.write(rows)
        except StoreError as exc:
            now_s = time.monotonic()
            if not exc.transient or retries.is_outage(now_s):
                raise
            await anyio.sleep(retries.delay_s(now_s))
