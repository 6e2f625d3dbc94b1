"""JSON that a user hands in: decoded as what it should be, or refused in one line that names where it is from. Pure."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from autopack._util.text import truncate_for_display
from autopack.errors import InputFileError

T = TypeVar("T")

_BOM = b"\xef\xbb\xbf"


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
