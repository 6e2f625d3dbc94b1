"""What stands for a required field of `record()` that was not given. On its own, since it is needed before all else."""

from __future__ import annotations

from typing import Any, Final


class Missing:
    """The default of a required field of `record()`: not given, which is not the same as None."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<missing>"


MISSING: Final[Any] = Missing()
