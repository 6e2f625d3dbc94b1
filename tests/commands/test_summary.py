"""Summary: the figures of the verdict, the same ones, on any terminal."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.read_side import START, autopack, environment, event, make_database

from autopack.analysis.sampling.collector import SampleCollector
from autopack.analysis.sampling.samples import Block, Event, Samples
from autopack.analysis.summarizing.periods import by_stratum, grid_of, periods_of
from autopack.analysis.summarizing.table import sparkline
from autopack.analysis.validating.groups import measures_of
from autopack.analysis.validating.rules import Rules

DAY_S = 86_400
HOSTILE = "[b]\x1b[2J\n\u202e"
AS_OF = ("--as-of", "2026-01-15")


def samples_at(*at_s: float) -> Samples:
    collector = SampleCollector()
    events = [
        Event(
            "r",
            f"p{number}",
            "m",
            "docs",
            "low" if number % 2 else "high",
            1,
            100 + number,
            100,
            200,
            True,
            False,
            at,
            True,
            False,
        )
        for number, at in enumerate(at_s)
    ]
    if events:
        collector.add_all([Block._make(zip(*events, strict=True))])
    return collector.samples()


def rows() -> list[Any]:
    """Forty samples over twenty days, of two categories, one with a hostile name."""
    return [
        event(
            number,
            timestamp=START + timedelta(hours=12 * number),
            actual_output_tokens=2000 + 100 * number,
            category="docs" if number % 4 else HOSTILE,
            success=number % 10 != 0,
        )
        for number in range(40)
    ]


@contextmanager
def terminal(columns: int) -> Iterator[tuple[int, list[bytes]]]:
    """A terminal to write to, and what was shown on it once the block is left."""
    shown: list[bytes] = []
    near, far = pty.openpty()
    try:
        yield far, shown
    finally:
        os.close(far)
        try:
            while part := os.read(near, 1 << 16):
                shown.append(part)
        except OSError:  # how Linux says that nobody writes to a terminal any more
            pass
        os.close(near)


def shown_on_terminal(database: Path, columns: int, **changes: str) -> str:
    with terminal(columns) as (end, shown):
        subprocess.run(
            [sys.executable, "-m", "autopack.cli", "summary", *AS_OF],
            env=environment(database, COLUMNS=str(columns), TERM="xterm-256color", **changes),
            stdin=subprocess.DEVNULL,
            stdout=end,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    return b"".join(shown).decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ""), ([0, 0], "▁▁"), ([None], "·"), ([0, 1, None, 2], "▁▅·█"), ([5], "█")],
)
def test_a_sparkline_has_a_bar_for_each_value(values: list[float | None], expected: str) -> None:
    assert sparkline(values) == expected


@given(st.lists(st.none() | st.floats(0, 1e12)))
def test_a_sparkline_never_loses_a_value(values: list[float | None]) -> None:
    assert len(sparkline(values)) == len(values)


@given(st.lists(st.floats(0, 4e9) | st.just(float("inf")), max_size=30), st.integers(1, 40))
def test_every_sample_with_a_time_is_in_one_of_few_periods(at_s: list[float], most: int) -> None:
    """Every sample with a time is in one period, and there are not too many periods."""
    samples = samples_at(*at_s)
    periods = periods_of(samples, Rules(), grid_of(samples, most=most))
    assert len(periods) <= most
    assert sum(period.measures.n for period in periods) == sum(at < float("inf") for at in at_s)


def test_a_day_begins_at_midnight_in_utc() -> None:
    samples = samples_at(3 * DAY_S - 1, 3 * DAY_S, 5 * DAY_S)
    periods = periods_of(samples, Rules(), grid_of(samples, most=10))
    assert [(period.begin, period.days, period.measures.n) for period in periods] == [
        ("1970-01-03", 1, 1),
        ("1970-01-04", 1, 1),
        ("1970-01-05", 1, 0),
        ("1970-01-06", 1, 1),
    ]


def test_a_long_history_is_cut_into_weeks() -> None:
    samples = samples_at(*(number * DAY_S for number in range(30)))
    grid = grid_of(samples, most=10)
    assert (grid.days, grid.count) == (7, 5)


def test_the_strata_have_all_samples() -> None:
    samples = samples_at(1, 2, 3)
    assert {name: len(part) for name, part in by_stratum(samples).items()} == {("docs", "high"): 2, ("docs", "low"): 1}


def test_the_figures_are_those_of_the_verdict(database: Path) -> None:
    make_database(database, rows())
    summary = json.loads(autopack("summary", "--json", *AS_OF, database=database).stdout)
    verdict = json.loads(autopack("validate", "--json", *AS_OF, database=database).stdout)
    assert summary["validation"] == verdict
    assert sum(period["measures"]["n"] for period in summary["periods"]) == verdict["overall"]["n"] == 40


def test_the_measures_of_all_samples_are_those_of_the_verdict() -> None:
    samples = samples_at(*range(50))
    parts = [measures_of(part, Rules()).n for part in by_stratum(samples).values()]
    assert measures_of(samples, Rules()).n == sum(parts) == 50


def test_without_a_terminal_the_summary_is_plain_text(database: Path) -> None:
    """Without a terminal the summary is plain text, and its exit code says nothing of the verdict."""
    make_database(database, rows())
    done = autopack("summary", *AS_OF, database=database)
    assert done.returncode == 0
    assert done.stdout.startswith("verdict: ")
    assert re.search(r"^SMAPE median .* % .*at most 50 % .*[▁▂▃▄▅▆▇█·]{20}$", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout


def test_a_long_category_does_not_take_the_complexity_away(database: Path) -> None:
    make_database(database, [event(1, category="c" * 100, complexity="high"), event(2, category="c" * 100)])
    done = autopack("summary", database=database)
    names = re.findall(r"^c+\.\.\./(\w+)", done.stdout, re.MULTILINE)
    assert names == ["high", "medium"]


def test_on_a_terminal_it_has_colours_unless_they_are_not_wanted(database: Path) -> None:
    make_database(database, rows())
    coloured, plain = shown_on_terminal(database, 120), shown_on_terminal(database, 120, NO_COLOR="1")
    assert "\x1b[1;3" in coloured
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", plain)
    assert "[b]" in plain


@pytest.mark.parametrize("columns", [30, 50, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(database: Path, columns: int) -> None:
    make_database(database, rows())
    shown = re.sub(r"\x1b\[[0-9;]*m", "", shown_on_terminal(database, columns, NO_COLOR="1"))
    assert max(map(len, shown.split("\n"))) <= columns
    assert "…" not in shown
    assert ("over time" in shown) == (columns >= 80)


def test_an_empty_database_has_a_summary_too(database: Path) -> None:
    make_database(database)
    done = autopack("summary", database=database)
    assert done.returncode == 0
    assert "INSUFFICIENT DATA" in done.stdout


def test_no_database_is_one_clear_line(database: Path) -> None:
    done = autopack("summary", database=database)
    assert done.returncode == 1
    assert "there is no database" in done.stderr
