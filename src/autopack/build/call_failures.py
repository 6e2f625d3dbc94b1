"""What went wrong with a call, in one line without secrets. Pure."""

from __future__ import annotations

from autopack._util.text import truncate_for_display, without_secrets

_REASON_LENGTH = 300
_QUOTES_HEADERS = frozenset({"LocalProtocolError", "UnicodeEncodeError"})


def describe_call_error(exc: Exception) -> str:
    """An exception as one line: status and type of an API error, else its class; the message, and what caused it."""
    status = getattr(exc, "status_code", None)
    kind = getattr(exc, "type", None) if status else None
    message = getattr(exc, "api_message", None) or _message(exc)
    title = " ".join(str(part) for part in (status, kind) if part) or type(exc).__name__
    text = f"{title}: {message}" if message else title
    return truncate_for_display(without_secrets(text if status else text + _cause(exc)), _REASON_LENGTH)


def _message(exc: BaseException) -> str:
    """What an exception says; nothing where it may be quoting a header, and with it the key."""
    return "" if type(exc).__name__ in _QUOTES_HEADERS else str(exc)


def _cause(exc: Exception) -> str:
    """The SDK says `Connection error.` of everything; what really happened is in the cause."""
    cause = exc.__cause__
    if cause is None:
        return ""
    message = _message(cause)
    return f" ({type(cause).__name__}: {message})" if message else f" ({type(cause).__name__})"
