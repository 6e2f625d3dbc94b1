import math
from pathlib import Path
from typing import Any

import pytest

from autopack.telemetry import ConfigError, Telemetry, TelemetryError
from autopack.telemetry.engine.settings import Settings, journal_folder, resolve
from autopack.telemetry.recorder import is_enabled
from autopack.telemetry.stores import MemoryStore


def test_a_keyword_beats_the_environment_which_beats_the_default() -> None:
    """A keyword is stronger than the environment, which is stronger than the default."""
    environ = {"TELEMETRY_QUEUE_SIZE": "7", "TELEMETRY_BATCH_SIZE": " 3 ", "TELEMETRY_FLUSH_INTERVAL_S": ""}
    found = resolve({"queue_size": 5, "batch_size": None}, environ)
    assert (found.queue_size, found.batch_size, found.flush_interval_s) == (5, 3, 0.5)


def test_every_setting_can_come_from_the_environment() -> None:
    defaults = Settings()
    words = {"journal_append": "written"}
    doubled: dict[str, Any] = {
        name: words.get(name) or getattr(defaults, name) * 2 for name in Settings.__struct_fields__
    }
    environ = {f"TELEMETRY_{name.upper()}": str(value) for name, value in doubled.items()}
    assert resolve({}, environ) == Settings(**doubled)


def test_the_defaults_are_those_of_the_design() -> None:
    found = resolve({}, {})
    assert (found.queue_size, found.queue_bytes, found.max_event_bytes) == (10_000, 64 << 20, 256 << 10)
    assert (found.batch_size, found.flush_interval_s, found.shutdown_timeout_s) == (500, 0.5, 5.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queue_size", 0),
        ("queue_size", -1),
        ("queue_size", 1.5),
        ("queue_size", "many"),
        ("queue_size", True),
        ("queue_size", 10**30),
        ("batch_size", 0),
        ("flush_interval_s", 0),
        ("flush_interval_s", -1.0),
        ("flush_interval_s", math.nan),
        ("flush_interval_s", math.inf),
        ("shutdown_timeout_s", -0.1),
        ("shutdown_timeout_s", math.nan),
        ("shutdown_timeout_s", 10**400),
        ("shutdown_timeout_s", "5"),
    ],
)
def test_an_impossible_keyword_raises_an_error_that_names_it(name: str, value: Any) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=name):
        Telemetry(MemoryStore(), **options)


@pytest.mark.parametrize("value", ["-1", "0", "many", "1.5", "nan", "1e400", "10_000", "\u0661"])
def test_an_impossible_variable_raises_an_error_that_names_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An impossible variable raises an error that names the variable."""
    monkeypatch.setenv("TELEMETRY_QUEUE_SIZE", value)
    with pytest.raises(ConfigError, match="TELEMETRY_QUEUE_SIZE"):
        Telemetry(MemoryStore())


@pytest.mark.parametrize("url", ["mysql://u:pw-geheim@h/d", "", "autopack.db", "sqlite://x.db", "sqlite:///file:x.db"])
def test_an_impossible_url_raises_an_error_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Telemetry(url)
    assert "geheim" not in str(caught.value)
    assert isinstance(caught.value, TelemetryError)
    assert isinstance(caught.value, ValueError)


def test_an_unknown_setting_is_an_error_that_lists_the_known_ones() -> None:
    """An unknown setting is an error that lists those that there are."""
    with pytest.raises(ConfigError, match=r"queue_length.*queue_size"):
        resolve({"queue_length": 5}, {})


@pytest.mark.parametrize("text", ["1", "true", "yes", "TRUE", "Yes", " true "])
def test_telemetry_is_on_for_three_words_in_any_case(text: str) -> None:
    assert is_enabled({"TELEMETRY_DB_ENABLED": text})


@pytest.mark.parametrize("text", ["", "0", "false", "no", "on", "2", "enabled", "tru", "\u0661"])
def test_telemetry_is_off_for_everything_else(text: str) -> None:
    assert not is_enabled({"TELEMETRY_DB_ENABLED": text})
    assert not is_enabled({})


def test_the_journal_folder_is_given_or_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The journal folder is the one that is given, or the environment's, or the automatic one."""
    automatic = tmp_path / "automatic"
    assert journal_folder("auto", automatic) == automatic
    assert journal_folder(None, automatic) is None
    assert journal_folder(str(tmp_path), automatic) == tmp_path
    monkeypatch.setenv("TELEMETRY_JOURNAL_DIR", "off")
    assert journal_folder("auto", automatic) is None
    monkeypatch.setenv("TELEMETRY_JOURNAL_DIR", str(tmp_path / "mine"))
    assert journal_folder("auto", automatic) == tmp_path / "mine"
