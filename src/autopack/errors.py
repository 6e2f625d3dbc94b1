"""Every error of autopack, and what a caller can do about it.

AutopackError
├── ClientSetupError          the environment does not let the real API be called
│   └── MissingCredentialsError   there are no credentials, or none that could be sent
├── InputError                what was handed in cannot be used: hand in something else
│   ├── DatabaseUrlError          the text is not a database URL that autopack can write to
│   └── InputFileError            a file cannot be read, decoded or accepted
├── AnalysisError             a figure or a page cannot be made
│   └── ReadError                 the database, table or file that was asked for cannot be read
├── MissingExtraError         a library is not installed: install the extra that the message names
├── SchemaError               the database's schema is one that this program cannot write to
├── DatabaseError             the database or its driver refused what was asked
├── TelemetryError            the writer raised it
│   ├── ConfigError               a setting is impossible: change it
│   ├── StoreError                a batch was not written, and the class says what to do with it
│   │   ├── TransientStoreError       try the whole transaction again
│   │   ├── DataRejectedError         a row in it may be the reason: find out which, or whether it is the table
│   │   └── StoreUnusableError        no row is the reason, no retry helps until a person acts: keep everything
│   ├── SegmentError              a file cannot be used as a journal segment: leave it alone
│   │   ├── ForeignSegmentError       its events are for another destination
│   │   └── SegmentWriteError         a record was not written whole: what was written of it is void
│   └── QueueRejected             no event is taken now, for a reason that is counted
└── …                         an exception that never leaves its module is defined there

A message says what happened, to what, and what to do about it. No message holds a password or the text of a row.
"""

from __future__ import annotations

import os

from autopack._util.text import escape_terminal


class AutopackError(Exception):
    """The root of what autopack raises on purpose."""


class ClientSetupError(AutopackError):
    """The environment does not let the real API be called. The message is one line without secrets."""


class MissingCredentialsError(ClientSetupError):
    """There are no credentials, or none that could be sent."""


class InputError(AutopackError, ValueError):
    """What was handed in cannot be used; the message names it and says what is wrong with it."""


class DatabaseUrlError(InputError):
    """The text is not a database URL that autopack can write to; the message says why, without a password."""


class InputFileError(InputError):
    """A file cannot be used. The message is one line that names the file and what is wrong with it."""


class AnalysisError(AutopackError):
    """The message says what happened, to what, and what to do; it holds no password."""


class ReadError(AnalysisError):
    """The events cannot be read."""


class MissingExtraError(AutopackError, ImportError):
    """A library that only an extra installs is missing; the message names the library and the extra."""


def require(module: str, extra: str, purpose: str = "this") -> None:
    """Check that `module`, which the extra `extra` installs, is there, without importing it.

    Raises:
        MissingExtraError: it is not; `purpose` says what needs it.

    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingExtraError(f"{purpose} needs {module}: pip install 'autopack-telemetry[{extra}]'")


class SchemaError(AutopackError):
    """The database's schema is one that this program cannot write to; the message says why."""


class DatabaseError(AutopackError):
    """The database or its driver refused what was asked; the message names the database and the reason."""


class TelemetryError(AutopackError):
    """The root of what `autopack.telemetry` raises."""


class ConfigError(TelemetryError, ValueError):
    """A setting is impossible; the message names the setting, its value and what would do."""


class StoreError(TelemetryError):
    """A store could not write. `code` is the driver's own code, without any text that might embed a row.

    `transient`: waiting may help, and no person has to act.
    """

    transient = False

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class TransientStoreError(StoreError):
    """Locked, full, away, interrupted, or unknown: the same transaction may go through later."""

    transient = True


class DataRejectedError(StoreError):
    """The database, or its driver, refused a row. Nothing of the batch was written.

    `subject`: what the refusal is about, such as `column tenant`, where the driver names it; never a value.
    """

    def __init__(self, code: str, subject: str | None = None) -> None:
        super().__init__(code)
        self.subject = subject


class StoreUnusableError(StoreError):
    """The table is missing, the file is no database, it is read-only: retrying cannot help, bisecting neither."""


class SegmentError(TelemetryError):
    """A file cannot be used as a segment; the message says why."""


class ForeignSegmentError(SegmentError):
    """A segment is for another destination."""


class SegmentWriteError(SegmentError):
    """A record could not be written whole; the message says why. What was written of it is void."""


class QueueRejected(TelemetryError):  # noqa: N818 (an answer that is counted, not a fault)
    """The queue takes no event now; `reason` is one of `counters.Drops.REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def describe_error(exc: BaseException) -> str:
    """Return an error's message on one line, fit for a terminal; for an error of the system, with the file's name."""
    if isinstance(exc, OSError) and exc.strerror and exc.filename is not None:
        return escape_terminal(f"{os.fsdecode(exc.filename)}: {exc.strerror}")
    return escape_terminal(str(exc))
