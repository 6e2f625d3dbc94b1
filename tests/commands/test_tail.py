"""Tail: what lands in the database is shown once, as it lands, and nobody who writes is held up."""

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tests.read_side import autopack, environment, event, make_database

from autopack.analysis.reading.records import COLUMNS, EventRecord, Unreadable, records_of
from autopack.analysis.reading.selection import EVERYTHING, Selection
from autopack.analysis.tailing.line import header_line, line_of
from autopack.analysis.tailing.tail import Tail
from autopack.database import engine_for
from autopack.database.destination import Destination, parse_database_url
from autopack.telemetry import Telemetry

TABLE = "token_estimation_v2_events"


def add(destination: Destination, *rows: Any) -> None:
    with Session(engine_for(destination)) as session:
        session.add_all(rows)
        session.commit()


def phases(records: Any) -> list[str]:
    return [record.phase_id for record in records]


def record(**changes: Any) -> EventRecord:
    row = event(1, **changes)
    return records_of([[getattr(row, name) for name in COLUMNS]], Unreadable())[0]


@contextmanager
def tailing(database: Path, *options: str, **popen: Any) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        [sys.executable, "-m", "autopack.cli", "tail", "--interval", "0.05", *options],
        env=environment(database),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **popen,
    )
    watchdog = threading.Timer(60, process.kill)  # a line that never comes ends the output instead
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def line_with(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


def test_it_begins_with_the_newest_oldest_first(tmp_path: Path) -> None:
    tail = Tail(make_database(tmp_path / "x.db", map(event, range(20))), EVERYTHING)
    assert phases(tail.begin(3)) == ["p17", "p18", "p19"]
    assert phases(tail.look()) == []


def test_each_look_has_what_landed_since_the_last_one(tmp_path: Path) -> None:
    destination = make_database(tmp_path / "x.db", [event(1)])
    tail = Tail(destination, EVERYTHING)
    assert phases(tail.begin(0)) == []
    add(destination, event(2), event(3))
    assert phases(tail.look()) == ["p2", "p3"]
    add(destination, event(4))
    assert phases(tail.look()) == ["p4"]
    assert phases(tail.look()) == []


def test_an_event_of_long_ago_that_lands_now_is_new(tmp_path: Path) -> None:
    destination = make_database(tmp_path / "x.db", [event(10**6)])
    tail = Tail(destination, EVERYTHING)
    tail.begin(10)
    add(destination, event(1))
    assert phases(tail.look()) == ["p1"]


def test_an_empty_and_an_emptied_table_are_no_problem(tmp_path: Path) -> None:
    """A table that was empty and one that was emptied are no problem."""
    destination = make_database(tmp_path / "x.db")
    tail = Tail(destination, EVERYTHING)
    assert phases(tail.begin(10)) == []
    add(destination, event(1), event(2))
    assert phases(tail.look()) == ["p1", "p2"]
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute(f"DELETE FROM {TABLE}")
        connection.commit()
    assert phases(tail.look()) == []
    add(destination, event(3))
    assert phases(tail.look()) == ["p3"]


def test_only_what_is_selected_is_shown(tmp_path: Path) -> None:
    destination = make_database(tmp_path / "x.db", [event(1), event(2, run_id="other")])
    tail = Tail(destination, Selection(run_ids=("other",)))
    assert phases(tail.begin(10)) == ["p2"]
    add(destination, event(3), event(4, run_id="other"))
    assert phases(tail.look()) == ["p4"]


@pytest.mark.slow
def test_new_events_appear_while_it_runs_and_ctrl_c_ends_it_with_130(database: Path, database_url: str) -> None:
    make_database(database, [event(1)])
    with tailing(database) as process:
        line_with(process, "nightly/p1")
        with Telemetry(database_url) as telemetry:
            telemetry.record(
                run_id="live",
                phase_id="now",
                category="docs",
                complexity="low",
                deliverables=["a"],
                predicted_output_tokens=100,
                actual_output_tokens=50,
                selected_budget=200,
                success=True,
                truncated=False,
                stop_reason="end_turn",
                model="m",
            )
            telemetry.flush(10)
            assert "docs/low" in line_with(process, "live/now")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert process.stderr.read() == f"# Database: sqlite:///{database}\n"


@pytest.mark.slow
def test_sigterm_ends_it_with_143(database: Path) -> None:
    make_database(database, [event(1)])
    with tailing(database) as process:
        line_with(process, "p1")
        process.terminate()
        assert process.wait(10) == 143


def test_it_waits_for_a_database_that_is_not_there_yet(database: Path) -> None:
    with tailing(database) as process:
        assert process.stderr is not None
        assert next(line for line in process.stderr if "Waiting" in line).startswith("# Waiting: there is no database")
        made = database.with_name("made.db")
        make_database(made, [event(1)])
        made.rename(database)
        line_with(process, "nightly/p1")


def test_without_following_a_database_that_is_not_there_is_an_error(database: Path) -> None:
    done = autopack("tail", "--no-follow", database=database)
    assert done.returncode == 1
    assert "there is no database" in done.stderr
    assert not database.exists()


@pytest.mark.slow
def test_a_writer_is_not_held_up_and_no_file_is_left(database: Path) -> None:
    """Writes without any patience for a lock, all the while something looks."""
    destination = make_database(database, [event(0)])
    stop, looked = threading.Event(), threading.Event()

    def look() -> None:
        tail = Tail(destination, EVERYTHING)
        tail.begin(1)
        while not stop.is_set():
            list(tail.look())
            looked.set()

    watcher = threading.Thread(target=look)
    with closing(sqlite3.connect(database, timeout=0)) as connection:
        watcher.start()
        assert looked.wait(10)
        for number in range(1, 100):
            connection.execute(f"UPDATE {TABLE} SET phase_id = 'q{number}'")
            connection.commit()
        stop.set()
        watcher.join()
    assert sorted(path.name for path in database.parent.iterdir()) == [database.name]


def test_json_is_what_export_writes(tmp_path: Path, database: Path) -> None:
    make_database(database, [event(1), event(2)])
    autopack("export", "--output", tmp_path / "x.ndjson", database=database)
    done = autopack("tail", "--no-follow", "--json", database=database)
    assert done.stdout.splitlines() == (tmp_path / "x.ndjson").read_text().splitlines()[::-1]
    assert [json.loads(line)["phase_id"] for line in done.stdout.splitlines()] == ["p1", "p2"]


def test_a_line_says_what_was_predicted_and_what_came() -> None:
    line = line_of(record())
    assert not line.bad
    assert line.text.split() == [
        "2025-12-29",
        "19:40:02",
        "nightly/p1",
        "implementation/medium",
        "5200",
        "2600",
        "2.00×",
        "8192",
        "ok",
        "claude-sonnet-4-5",
    ]
    assert [match.start() for match in re.finditer("budget", header_line())] == [line.text.index("  8192")]


def test_what_did_not_go_well_is_said() -> None:
    line = line_of(record(success=False, truncated=True, actual_output_tokens=9000, waste_ratio=57))
    assert line.bad
    assert "≥9000" in line.text
    assert "≤0.57×" in line.text
    assert "truncated, failed, over budget" in line.text


def test_hostile_and_odd_values_stay_one_harmless_line() -> None:
    hostile = "\x1b[2J\n\u202e" + "x" * 5000
    odd = record(
        run_id=hostile,
        phase_id=hostile,
        category=hostile,
        model=hostile,
        timestamp=None,
        waste_ratio=None,
        predicted_output_tokens="many",
        actual_output_tokens=None,
        selected_budget=1.5,
    )
    text = line_of(odd).text
    assert text.isprintable()
    assert len(text) < 250


@pytest.mark.slow
@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_failures_are_red_unless_colour_is_off(database: Path, no_color: str) -> None:
    """On a terminal what went badly is red, unless colour is not wanted."""
    make_database(database, [event(1), event(2, truncated=True)])
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "autopack.cli", "tail", "--no-follow"],
        env=environment(database, NO_COLOR=no_color),
        stdin=subprocess.DEVNULL,
        stdout=end,
        stderr=subprocess.PIPE,
    )
    os.close(end)
    process.communicate(timeout=30)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert ("\x1b[31m" in shown) == (not no_color)
    assert shown.count("\n") == 3


@pytest.mark.slow
def test_a_reader_that_has_enough_is_no_error(database: Path) -> None:
    make_database(database, map(event, range(2000)))
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m autopack.cli tail -n 2000 --no-follow | head -1; exit ${{PIPESTATUS[0]}}"],
        env=environment(database),
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)


def test_a_database_in_memory_has_no_tail() -> None:
    done = autopack("tail", "--no-follow", database="sqlite://")
    assert done.returncode == 1
    assert parse_database_url("sqlite://").path is None
