"""The settings, their defaults and limits, and where they come from: keyword, then environment, then default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from autopack.errors import ConfigError
from autopack.telemetry.journal.format import Append

AUTO = "auto"

Size = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
Bytes = Annotated[int, msgspec.Meta(ge=1024, le=1 << 40)]
# At most what recovery maps.
SegmentBytes = Annotated[int, msgspec.Meta(ge=64 << 10, le=256 << 20)]
Interval = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Timeout = Annotated[float, msgspec.Meta(ge=0, le=3600)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much is kept in memory and when it is written. Each can be set as `TELEMETRY_<NAME>` as well.

    queue_size          events that may wait, in memory; beyond it the newest is dropped and counted
    queue_bytes         bytes of encoded events that may wait
    max_event_bytes     an event that encodes to more is dropped as `too_large`
    batch_size          events that make a batch worth waking the worker for
    flush_interval_s    seconds after which a smaller batch is written
    shutdown_timeout_s  seconds that `close()`, and the exit of the interpreter, wait for the rest
    load_timeout_s      seconds that they wait in all for a worker that still imports; 0 where only the former is given
    retry_attempts      tries of one transaction before it counts as an outage
    retry_total_s       seconds of tries before it counts as an outage
    backoff_base_s      upper end of the first random delay; it doubles with every try …
    backoff_cap_s       … up to this
    probe_interval_s    upper end of the random delay between tries during an outage
    journal_bytes       bytes of segments in one folder, of all writers together; beyond it the newest is dropped
    dead_letter_bytes   bytes of dead letters in one file; what is refused beyond it stays in the journal
    journal_first_segment_bytes  size of the first file of a process; each further one is four times as large …
    journal_segment_bytes  … up to this
    journal_append      how: `mapped`, `written` by a system call for each event, or `auto`: as the file system allows
    """

    queue_size: Size = 10_000
    queue_bytes: Bytes = 64 << 20
    max_event_bytes: Bytes = 256 << 10
    batch_size: Size = 500
    flush_interval_s: Interval = 0.5
    shutdown_timeout_s: Timeout = 5.0
    load_timeout_s: Timeout = 30.0
    retry_attempts: Size = 8
    retry_total_s: Interval = 30.0
    backoff_base_s: Interval = 0.05
    backoff_cap_s: Interval = 2.0
    probe_interval_s: Interval = 5.0
    journal_bytes: Bytes = 256 << 20
    dead_letter_bytes: Bytes = 64 << 20
    journal_first_segment_bytes: SegmentBytes = 64 << 10
    journal_segment_bytes: SegmentBytes = 8 << 20
    journal_append: Append = "auto"


_FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}


def resolve(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in force: what is given and not None, else the environment's, else the default.

    Raises:
        ConfigError: a value is impossible, or a name is unknown; the message names the keyword or the variable.

    """
    environ = os.environ if environ is None else environ
    if unknown := given.keys() - _FIELDS.keys():
        raise ConfigError(f"unknown setting {', '.join(sorted(unknown))}; there are {', '.join(_FIELDS)}")
    values = {name: _value(name, given.get(name), environ) for name in _FIELDS}
    if values["shutdown_timeout_s"] is not None and values["load_timeout_s"] is None:
        values["load_timeout_s"] = 0.0  # what a user has decided is the whole wait
    return Settings(**{name: value for name, value in values.items() if value is not None})


def _value(name: str, given: Any, environ: Mapping[str, str]) -> Any:
    if given is not None:
        return _convert(name, given, name, strict=True)
    variable = f"TELEMETRY_{name.upper()}"
    text = environ.get(variable, "").strip()
    return _convert(name, text, variable, strict=False) if text else None


def _convert(name: str, value: Any, source: str, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, _FIELDS[name].type, strict=strict)
    except (msgspec.ValidationError, OverflowError) as exc:
        raise ConfigError(f"{source}={value!r}: {exc}; the default is {_FIELDS[name].default}") from exc


def dead_letter_bytes() -> int:
    """The cap of a file of dead letters that the environment asks for, the default where it asks for nonsense."""
    try:
        return resolve({}).dead_letter_bytes
    except ConfigError:
        return Settings().dead_letter_bytes


def journal_folder(given: str | os.PathLike[str] | None, automatic: Path | None) -> Path | None:
    """Where the journal is, None for no journal.

    `given`: a path, None for none, or "auto": what `TELEMETRY_JOURNAL_DIR` says (a path, or `off`), else `automatic`.
    """
    if given == AUTO:
        given = os.environ.get("TELEMETRY_JOURNAL_DIR", "").strip() or AUTO
    if given is None or given == "off":
        return None
    return automatic if given == AUTO else Path(given).absolute()
