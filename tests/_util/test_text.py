import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopack._util.text import escape_json, escape_terminal

ANY_TEXT = st.text(st.characters(exclude_categories=[]))  # with surrogates, which st.text() leaves out
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("src/app.py", "src/app.py"),
        ("größe–π 😀", "größe–π 😀"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b2J", "\\x9b2J"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x7f", "\\x7f"),
        ("safe\u202etxt.exe", "safe\\u202etxt.exe"),
        ("app\u200b.py", "app\\u200b.py"),
        ("a\u00ad\u2060\u2064\u3164b", "a\\xad\\u2060\\u2064\\u3164b"),
        ("\U000e0041", "\\U000e0041"),
        ("✔\ufe0f", "✔\ufe0f"),
        ("\udcff", "\\udcff"),
        ("C:\\new", "C:\\new"),
    ],
)
def test_what_a_terminal_would_act_upon_is_shown_as_an_escape(raw: str, shown: str) -> None:
    assert escape_terminal(raw) == shown


@given(ANY_TEXT)
def test_no_text_reaches_the_terminal_with_a_control_character(raw: str) -> None:
    """No text can reach the terminal with a control character, or break its encoder."""
    shown = escape_terminal(raw)
    shown.encode()
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") or c in BIDI]


@given(ANY_TEXT)
def test_what_is_shown_once_is_shown_the_same_again(raw: str) -> None:
    assert escape_terminal(escape_terminal(raw)) == escape_terminal(raw)


@pytest.mark.slow
@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_that_is_safe_for_a_terminal_means_the_same(value: object) -> None:
    safe = escape_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(safe) == value
    assert not [c for c in safe if unicodedata.category(c) in ("Cc", "Cf") or c in BIDI]


def test_json_beyond_the_first_plane_is_two_escapes() -> None:
    safe = escape_json('"\U000e0041\u200b"')
    assert safe.isascii()
    assert json.loads(safe) == "\U000e0041\u200b"
