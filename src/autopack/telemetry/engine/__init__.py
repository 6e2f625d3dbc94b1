"""From queue to database: the queue, the worker that drains it, retries, dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopack._util.lazy import lazy_names

if TYPE_CHECKING:
    from autopack.telemetry.engine.dead_letters import (
        DeadLetter,
        DeadLetterFile,
        DeadLetterStatus,
        dead_letter,
        dead_letter_status,
        dead_letters_in,
        refused_dead_letter,
    )
    from autopack.telemetry.engine.recovery import RecoveryResult, recover
    from autopack.telemetry.engine.retry import Retries
    from autopack.telemetry.engine.settings import AUTO, Settings, dead_letter_bytes, journal_folder, resolve
    from autopack.telemetry.engine.writer import waiting_text

__all__ = [
    "AUTO",
    "DeadLetter",
    "DeadLetterFile",
    "DeadLetterStatus",
    "RecoveryResult",
    "Retries",
    "Settings",
    "dead_letter",
    "dead_letter_bytes",
    "dead_letter_status",
    "dead_letters_in",
    "journal_folder",
    "recover",
    "refused_dead_letter",
    "resolve",
    "waiting_text",
]

if not TYPE_CHECKING:  # a type checker that sees it accepts every name
    __getattr__ = lazy_names(
        __name__,
        {
            "AUTO": "settings",
            "DeadLetter": "dead_letters",
            "DeadLetterFile": "dead_letters",
            "DeadLetterStatus": "dead_letters",
            "RecoveryResult": "recovery",
            "Retries": "retry",
            "Settings": "settings",
            "dead_letter": "dead_letters",
            "dead_letter_bytes": "settings",
            "dead_letter_status": "dead_letters",
            "dead_letters_in": "dead_letters",
            "refused_dead_letter": "dead_letters",
            "journal_folder": "settings",
            "recover": "recovery",
            "resolve": "settings",
            "waiting_text": "writer",
        },
    )
