"""`Telemetry`: the hot path, and what it says of itself.

`record()` takes no lock, makes no system call but the clock (and one `pwrite` where the journal is written and not
mapped, see `journal.medium`), and does the same few steps for every common event: encode, append, compare a length.
Anything uncommon (a full queue, a closed instance, a value that cannot be encoded, an unknown keyword, an event larger
than its share of the queue) ends up in an exception there and is sorted out by `SlowPath`, so that the common path pays
for none of it.
"""

from __future__ import annotations

import itertools
import os
from time import time_ns
from typing import TYPE_CHECKING, Any

from autopack._util import forks
from autopack._util.ids import random_sequence_start
from autopack.errors import AutopackError, ConfigError
from autopack.telemetry import lifecycle
from autopack.telemetry.counters import Drops

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self, TypeVar, Unpack

    from autopack.telemetry.engine.dead_letters import DeadLetterSink
    from autopack.telemetry.engine.slow_path import Redact
    from autopack.telemetry.engine.stats import TelemetryStats
    from autopack.telemetry.engine.writer import Writer
    from autopack.telemetry.event.schema import EventFields
    from autopack.telemetry.stores.base import Store

    T = TypeVar("T")


ENABLED_VARIABLE = "TELEMETRY_DB_ENABLED"
_ON = frozenset({"1", "true", "yes"})


def is_enabled(environ: Mapping[str, str] | None = None) -> bool:
    """Whether `TELEMETRY_DB_ENABLED` is `1`, `true` or `yes`, in any case; everything else is off."""
    environ = os.environ if environ is None else environ
    return environ.get(ENABLED_VARIABLE, "").strip().lower() in _ON


class _TakeSlowPath(AutopackError):  # noqa: N818 (not an error)
    """The event needs more than the common path does."""


class _InForkedChild(AutopackError):  # noqa: N818 (not an error)
    """No hook has run at the fork that made this process: it has to begin anew before it writes anything."""


class Telemetry:
    """Records model calls without waiting, and writes them to a database in the background.

    >>> with Telemetry("sqlite:///autopack.db") as telemetry:
    ...     telemetry.record(run_id="nightly-42", phase_id="p3", ...)

    destination: a database URL, or a `Store`. journal_dir: where accepted events are kept until they are written, so
    that they outlive the process; "auto" is `<database file>.telemetry`, None keeps them in memory only. A database in
    memory has no journal. The other options are those of `Settings`; what is not given comes from the
    environment (`TELEMETRY_QUEUE_SIZE`, …), then from the default. `redact` gets the deliverables of each event, and
    those that existed, before they leave the caller, and returns what may be stored; if it raises, the event loses its
    paths and is counted.

    The thread starts at the first accepted event. An instance that is not closed is closed at interpreter exit. In a
    forked child it is an empty one with the same settings; the parent keeps its events.

    Raises:
        ConfigError: a setting or the URL is impossible.

    """

    def __init__(
        self,
        destination: str | Store,
        *,
        queue_size: int | None = None,
        batch_size: int | None = None,
        flush_interval_s: float | None = None,
        shutdown_timeout_s: float | None = None,
        dead_letter_bytes: int | None = None,
        journal_dir: str | os.PathLike[str] | None = "auto",
        redact: Redact | None = None,
    ) -> None:
        given = {
            "queue_size": queue_size,
            "batch_size": batch_size,
            "flush_interval_s": flush_interval_s,
            "shutdown_timeout_s": shutdown_timeout_s,
            "dead_letter_bytes": dead_letter_bytes,
        }
        self._redact = redact
        with lifecycle.importing():
            lifecycle.pause_writers_at_forks()
            from autopack.telemetry.engine.settings import journal_folder, resolve
            from autopack.telemetry.stores.by_url import store_for

            self._settings = resolve(given)
            self._store = store_for(destination) if isinstance(destination, str) else destination
            self._journal_folder = None
            if self._store.identity is not None:
                self._journal_folder = journal_folder(journal_dir, self._store.telemetry_dir)
            self._begin()
        lifecycle.instances.add(self)

    @classmethod
    def from_env(cls) -> Telemetry:
        """The instance that the environment asks for: `TELEMETRY_DB_ENABLED`, `DATABASE_URL` and the settings.

        Off, which is the default, means off: no thread, no file, no import of SQLAlchemy. An impossible setting is
        warned of once, and the instance is off: a build does not fail for it.
        """
        if not is_enabled():
            return DisabledTelemetry()
        from autopack.database.destination import database_url

        try:
            return cls(database_url())
        except ConfigError as exc:
            lifecycle.warn_once(f"Telemetry is off: {exc}")
            return DisabledTelemetry()

    @property
    def enabled(self) -> bool:
        """Whether events are accepted at all."""
        return True

    if TYPE_CHECKING:

        def record(self, **fields: Unpack[EventFields]) -> bool:
            """Accept one model call; see below. Type checkers know its fields from their one declaration."""
            return bool(fields)

    else:

        def record(
            self,
            /,
            *args,
            run_id=...,
            phase_id=...,
            category=...,
            complexity=...,
            deliverables=...,
            predicted_output_tokens=...,
            actual_output_tokens=...,
            selected_budget=...,
            success=...,
            truncated=...,
            stop_reason=...,
            model=...,
            actual_max_tokens=None,
            input_tokens=None,
            duration_ms=None,
            existing=None,
            attributes=None,
            **others,
        ) -> bool:
            """Accept one model call, to be written in the background. Never raises and never waits.

            Returns True when the event is accepted: it will be in the database, or in the dead letters with the
            reason. False when it was dropped; `stats().dropped` counts why. The twelve fields up to `model` are
            required. One that is missing, of a wrong type, negative or not known is not an error here: the event goes
            to the dead letters.

            deliverables: paths (`str` or `pathlib`), also nested in lists and mappings; the first 20 are stored, each
            up to 200 characters. predicted_output_tokens, actual_output_tokens: tokens; if one is 0 there are no
            metrics. selected_budget: the output tokens that the estimator chose; actual_max_tokens: the ceiling really
            sent. stop_reason, and everything after `model`: None where unknown. existing: those of the deliverables
            that were there before the call. attributes: the user's own tags, flat.

            What capturing adds takes the slow path, so that calls without it do not pay for it. provider: who answered,
            such as `anthropic`. call_id: the provider's id of the reply, for a join with a bill. attempt: which
            execution of the phase in this run, from 1. turn: which reply of a tool loop, from 1. reasoning_tokens:
            those of the output tokens that were reasoning; reasoning_level: as requested, a word. cache_read_tokens,
            cache_write_tokens: those of the input tokens that came from, and went into, the prompt cache; where they
            are given, `input_tokens` means all input. estimator: 8 hex digits that name the coefficients which made
            the prediction.

            The time of the event is the time of this call. The caller may change its lists and mappings afterwards.
            """
            # Its id stands in it from the start: should a signal handler raise when the event is already in, it is
            # tried again below, and the second is a duplicate. In the order of `EventFields`, as far as these have a
            # parameter.
            event = (
                time_ns(),
                next(self._sequence),
                run_id,
                phase_id,
                category,
                complexity,
                deliverables,
                predicted_output_tokens,
                actual_output_tokens,
                selected_budget,
                success,
                truncated,
                stop_reason,
                model,
                actual_max_tokens,
                input_tokens,
                duration_ms,
                existing,
                attributes,
            )
            payload = None
            try:
                payload = self._encode(event)
                if others or args or len(payload) > self._slot_bytes:
                    raise _TakeSlowPath  # noqa: TRY301 (the one way out of the common path)
                if not self._mark[0]:
                    raise _InForkedChild  # noqa: TRY301 (as above)
                wake = self._append(payload)
            except Exception as exc:  # noqa: BLE001 (whatever it was is sorted out there)
                try:
                    if not self._mark[0] or exc.__class__ is _InForkedChild:
                        event, payload = self._begin_in_child(event), None
                    return self._slow_path.record(event, payload, args, others)
                except (RecursionError, _InForkedChild):  # so near to the limit that not even this can be called
                    next(self._unencodable)
                    return False
            if wake:
                self._writer.wake()
            return True

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was accepted before this call is settled: written, a duplicate, or a dead letter.

        Returns whether it is. timeout_s: at most so long; None: the shutdown timeout.
        """
        forks.notice()
        return self._writer.flush(self._settings.shutdown_timeout_s if timeout_s is None else timeout_s)

    async def aflush(self, timeout_s: float | None = None) -> bool:
        """Like `flush`, without blocking the caller's event loop, asyncio's or trio's."""
        return await _in_a_thread(lambda: self.flush(timeout_s))

    def close(self, timeout_s: float | None = None) -> None:
        """Let nothing in any more, write what is waiting, and stop, within the timeout.

        timeout_s None: the setting's, and where that is the default, too, up to 30 s in all as long as the worker is
        still importing its libraries, which is said in the log after 5.

        Idempotent, and callable from several threads and from a signal handler. What could not be written in time is
        still `pending` in `stats()`, and is said in the log.
        """
        forks.notice()
        self._writer.close(timeout_s)

    def begin_close(self) -> None:
        """Close in the background: let nothing in any more, and let the worker drain and stop by itself."""
        forks.notice()
        self._writer.begin_close()

    @property
    def closed(self) -> bool:
        """Whether a close has begun: nothing is accepted any more."""
        forks.notice()
        return self._writer.closing

    async def aclose(self, timeout_s: float | None = None) -> None:
        """Like `close`, without blocking the caller's event loop."""
        await _in_a_thread(lambda: self.close(timeout_s))

    def stats(self) -> TelemetryStats:
        """The counts as they are now."""
        forks.notice()
        return self._snapshot(self._writer, self._slow_path.redaction_failures.value)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def writer(self) -> Writer:
        """The background writer."""
        return self._writer

    @property
    def dead_letters(self) -> DeadLetterSink:
        """Where refused events go: a `DeadLetterFile`, or `MemoryDeadLetters` for a database in memory."""
        return self._writer.dead_letters

    def _begin_in_child(self, event: tuple[Any, ...]) -> tuple[Any, ...]:
        """Begin anew; returns the event with a sequence of this process: equal ids would count as duplicates.

        Raises _InForkedChild for a signal handler that interrupts this very step.
        """
        if not forks.notice():
            raise _InForkedChild
        instant, _, *fields = event
        return (instant, next(self._sequence), *fields)

    def _begin(self) -> None:
        """A writer of its own, and what the hot path needs of it at hand."""
        from autopack.telemetry.engine.slow_path import SlowPath
        from autopack.telemetry.engine.stats import snapshot
        from autopack.telemetry.engine.writer import Writer
        from autopack.telemetry.event.wire import encode

        self._writer = Writer(self._store, self._settings, self._journal_folder)
        queue = self._writer.queue
        self._snapshot = snapshot  # here, since a signal handler may ask for it while it is first asked for
        self._encode = encode if self._redact is None else _take_slow_path
        self._sequence = itertools.count(random_sequence_start())
        self._slow_path = SlowPath(self._writer, self._settings, self._redact)
        self._unencodable = self._writer.drops.counter("unencodable").ticks
        self._slot_bytes = min(queue.slot_bytes, self._settings.max_event_bytes)
        self._append = queue.append
        self._mark = forks.mark

    def reset_in_child(self) -> None:
        """For `lifecycle`, in a forked child: leave everything of the parent's untouched, and begin again, empty."""
        was_closing = self._writer.closing
        self._writer.reset_in_child()
        lifecycle.keep_uncollected(self._writer)
        self._store = self._store.reset_in_child()
        self._begin()
        if was_closing:
            self._writer.begin_close(0)


def _take_slow_path(_event: tuple[Any, ...]) -> bytes:
    raise _TakeSlowPath


class DisabledTelemetry(Telemetry):
    """Telemetry that is off: accepts nothing, costs next to nothing, counts the calls as dropped, `disabled`."""

    def __init__(self) -> None:
        self._drops = Drops()
        self._refusals = self._drops.counter("disabled").ticks

    @property
    def enabled(self) -> bool:
        """False."""
        return False

    if not TYPE_CHECKING:

        def record(
            self,
            /,
            *_args,
            run_id=None,
            phase_id=None,
            category=None,
            complexity=None,
            deliverables=None,
            predicted_output_tokens=None,
            actual_output_tokens=None,
            selected_budget=None,
            success=None,
            truncated=None,
            stop_reason=None,
            model=None,
            actual_max_tokens=None,
            input_tokens=None,
            duration_ms=None,
            existing=None,
            attributes=None,
            **_unknown,
        ) -> bool:
            """False. The keywords stand here one by one: collecting them into a mapping costs twice as much."""
            next(self._refusals)
            return False

    def flush(self, timeout_s: float | None = None) -> bool:
        """True: nothing was accepted."""
        return True

    async def aflush(self, timeout_s: float | None = None) -> bool:
        """True."""
        return True

    def close(self, timeout_s: float | None = None) -> None:
        """There is nothing to close."""

    async def aclose(self, timeout_s: float | None = None) -> None:
        """There is nothing to close."""

    def begin_close(self) -> None:
        """There is nothing to close."""

    @property
    def closed(self) -> bool:
        """False: it was never open."""
        return False

    @property
    def dead_letters(self) -> DeadLetterSink:
        """None are kept."""
        from autopack.telemetry.engine.dead_letters import MemoryDeadLetters

        return MemoryDeadLetters(0)

    def stats(self) -> TelemetryStats:
        """All zero but `dropped["disabled"]`."""
        from autopack.telemetry.engine.stats import TelemetryStats

        return TelemetryStats(dropped=self._drops.snapshot())


async def _in_a_thread(function: Callable[[], T]) -> T:
    """Run a blocking call for a loop of asyncio or trio, without a place in the line of the caller's own threads."""
    import anyio
    import anyio.to_thread

    try:
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    except RuntimeError:
        return function()  # the process is at its limit of threads: then here, rather than not at all
