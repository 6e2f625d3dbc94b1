"""Files that a user hands in: read and decoded, or refused in one line that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from autopack._util.text import truncate_for_display
from autopack.errors import InputFileError

T = TypeVar("T")

LARGEST_INPUT_BYTES = 64 << 20

_BOM = b"\xef\xbb\xbf"


def read_input(path: Path, source: str | None = None) -> bytes:
    """Return the bytes of a file or pipe; `source` names it in messages, else its path does.

    Raises:
        InputFileError: it cannot be read, or is larger than 64 MiB, as a device without an end is.

    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_INPUT_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "not a path"
        raise InputFileError(f"{truncate_for_display(source or str(path))}: {reason}") from exc
    if len(data) > LARGEST_INPUT_BYTES:
        raise InputFileError(
            f"{truncate_for_display(source or str(path))}: larger than {LARGEST_INPUT_BYTES >> 20} MiB"
        )
    return data


def decode_input(data: bytes, kind: type[T], source: str) -> T:
    """Decode the JSON in `data` as a `kind`; `source` names the file in messages. Raises `InputFileError`."""
    try:
        return msgspec.json.decode(data.removeprefix(_BOM), type=kind)
    except msgspec.ValidationError as exc:
        raise InputFileError(f"{truncate_for_display(source)}: {truncate_for_display(str(exc))}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InputFileError(
            f"{truncate_for_display(source)}: not valid JSON: {truncate_for_display(str(exc))}"
        ) from exc
    except RecursionError as exc:
        raise InputFileError(f"{truncate_for_display(source)}: nested too deeply") from exc
