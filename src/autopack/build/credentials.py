"""Whether the environment lets the real API be called: looked at before anything is started, without asking it."""

from __future__ import annotations

from autopack.errors import ClientSetupError, MissingCredentialsError
from autopack.build.call_failures import describe_call_error
from autopack._util.text import truncate_for_display, without_secrets


def check_setup() -> str:
    """The URL that the SDK would call with what it finds in the environment; asks no server.

    Raises:
        ClientSetupError: there are no usable credentials, or a URL, proxy or certificate cannot be used.

    """
    import httpx2
    from anthropic import Anthropic

    try:
        with httpx2.Client():  # first: a client of the SDK that is made by half complains on stderr when it goes
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


def _check_header(name: str, value: str | None) -> None:
    if value and not value.isprintable():
        raise MissingCredentialsError(f"{name} holds what cannot be sent, such as a line break")
