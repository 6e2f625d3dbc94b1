"""The Anthropic SDK at its edges: clients of the real and of the loopback API, their setup, and their errors in a line.

The SDK is imported by the functions that need it, not with this module: it takes two seconds.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from autopack._util.text import truncate_for_display, without_secrets
from autopack.errors import ClientSetupError, MissingCredentialsError, require

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anthropic import AsyncAnthropic

_LOOPBACK_TIMEOUT_S = 60
_REASON_LENGTH = 300
_QUOTES_HEADERS = frozenset({"LocalProtocolError", "UnicodeEncodeError"})


def require_sdk(extra: str = "anthropic", purpose: str = "a client of the Messages API") -> None:
    """Check that the SDK is installed. Raises `MissingExtraError`."""
    require("anthropic", extra, purpose)


@asynccontextmanager
async def open_sdk() -> AsyncIterator[AsyncAnthropic]:
    """Open a client of the real API, with the credentials of the environment; without any, every call fails."""
    require_sdk()
    from anthropic import AsyncAnthropic

    async with AsyncAnthropic() as sdk:
        yield sdk


@asynccontextmanager
async def open_loopback_sdk(base_url: str) -> AsyncIterator[AsyncAnthropic]:
    """Open a client of a server on the loopback.

    A proxy of the environment could not reach that server, and the SDK's default HTTP client would use it even with
    `trust_env=False`; so the SDK gets an HTTP client of its own.
    """
    require_sdk()
    import httpx2
    from anthropic import AsyncAnthropic

    http_client = httpx2.AsyncClient(trust_env=False, timeout=_LOOPBACK_TIMEOUT_S)
    async with AsyncAnthropic(base_url=base_url, api_key="loopback", http_client=http_client) as sdk:
        yield sdk


def check_setup() -> str:
    """Return the URL that the SDK would call with what it finds in the environment; asks no server.

    Raises:
        ClientSetupError: there are no usable credentials, or a URL, proxy or certificate cannot be used.

    """
    import httpx2
    from anthropic import Anthropic

    try:
        with httpx2.Client():  # first: an SDK client whose making fails half-way complains on stderr when collected
            pass
        sdk = Anthropic()
    except Exception as exc:
        hint = "ANTHROPIC_BASE_URL, a proxy or a certificate of the environment"
        raise ClientSetupError(f"the SDK cannot be set up, look at {hint}: {describe_call_error(exc)}") from exc
    with sdk:
        if not (sdk.api_key or sdk.auth_token or sdk.credentials):
            raise MissingCredentialsError("no credentials for the Messages API: set ANTHROPIC_API_KEY")
        _check_header("ANTHROPIC_API_KEY", sdk.api_key)
        _check_header("ANTHROPIC_AUTH_TOKEN", sdk.auth_token)
        base_url = truncate_for_display(without_secrets(str(sdk.base_url)))
        if sdk.base_url.scheme not in {"http", "https"} or not sdk.base_url.host:
            raise ClientSetupError(f"ANTHROPIC_BASE_URL: {base_url} is no http:// or https:// URL")
        return base_url


def describe_call_error(exc: Exception) -> str:
    """Return a failed call's exception as one line without secrets: its kind, its message, and its cause.

    The kind is status and type of an API error, else the class.
    """
    status = getattr(exc, "status_code", None)
    kind = getattr(exc, "type", None) if status else None
    message = _api_message(exc) or _message(exc)
    title = " ".join(str(part) for part in (status, kind) if part) or type(exc).__name__
    text = f"{title}: {message}" if message else title
    return truncate_for_display(without_secrets(text if status else text + _cause(exc)), _REASON_LENGTH)


def _check_header(name: str, value: str | None) -> None:
    if value and not value.isprintable():
        raise MissingCredentialsError(f"{name} holds what cannot be sent, such as a line break")


def _api_message(exc: Exception) -> str:
    """Return what the API itself said; empty where it did not say it as it should."""
    body = getattr(exc, "body", None)
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""


def _message(exc: BaseException) -> str:
    """Return the text of an exception; empty where it may quote a header, and with it the key."""
    return "" if type(exc).__name__ in _QUOTES_HEADERS else str(exc)


def _cause(exc: Exception) -> str:
    """Return the cause in brackets: the SDK calls every network failure `Connection error.`."""
    cause = exc.__cause__
    if cause is None:
        return ""
    message = _message(cause)
    return f" ({type(cause).__name__}: {message})" if message else f" ({type(cause).__name__})"
