import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.recorded import RecordedRun

from autopack.analysis.reading.logs import LogRecord, parse_line
from autopack.analysis.replaying.observations import from_log

FIELDS = (
    "predicted_output=822 actual_output=3137 smape=116.9% selected_budget=12288 category=implementation "
    "complexity=medium deliverables=2 success=True stop_reason=end_turn truncated=False model=claude-sonnet-4-5"
)
LINE = f"[2025-12-23 22:07:12] INFO: [TokenEstimationV2] {FIELDS}"
RECORD = LogRecord(
    at=datetime(2025, 12, 23, 22, 7, 12),  # noqa: DTZ001 (a log's clock names no zone)
    predicted_output_tokens=822,
    actual_tokens=3137,
    actual_is_total=False,
    selected_budget=12288,
    category="implementation",
    complexity="medium",
    deliverable_count=2,
    success=True,
    truncated=False,
    stop_reason="end_turn",
    model="claude-sonnet-4-5",
)


def test_the_bracketed_form_is_read() -> None:
    assert parse_line(LINE) == RECORD


def test_the_form_of_pythons_logging_is_read() -> None:
    line = f"2025-12-23 19:47:57,427 - autopack.anthropic_clients - INFO - [TokenEstimationV2] {FIELDS}\n"
    record = parse_line(line)
    assert record is not None
    assert record.at == datetime(2025, 12, 23, 19, 47, 57, 427_000)  # noqa: DTZ001 (a log's clock names no zone)
    assert record.model == "claude-sonnet-4-5"


def test_the_fallback_form_has_the_tokens_of_the_whole_call() -> None:
    record = parse_line(
        "[TokenEstimationV2] predicted_output=822 actual_total=5000 smape=143.5% selected_budget=12288 "
        "category=docs complexity=low deliverables=1 success=True model=m"
    )
    assert record is not None
    assert (record.actual_tokens, record.actual_is_total, record.at) == (5000, True, None)
    assert (record.truncated, record.stop_reason) == (False, None)


@pytest.mark.parametrize("stop_reason", ["None", "max_tokens"])
def test_a_stop_reason_of_none_is_none(stop_reason: str) -> None:
    record = parse_line(LINE.replace("end_turn", stop_reason))
    assert record is not None
    assert record.stop_reason == (None if stop_reason == "None" else stop_reason)


@pytest.mark.parametrize(
    "broken",
    [
        LINE.replace("actual_output=3137 ", ""),
        LINE.replace("3137", "-3137"),
        LINE.replace("3137", "3137.5"),
        LINE.replace("3137", "9" * 20),
        LINE.replace("3137", "9" * 5000),
        LINE.replace("3137", "\u0663"),
        LINE.replace("success=True", "success=maybe"),
        LINE.replace("truncated=False ", ""),
        LINE.replace("medium", "medium and more"),
        LINE + " actual_output=1",
        "[TokenEstimationV2] Failed",
        "[TokenEstimationV2]",
        LINE[:150],
    ],
)
def test_what_cannot_be_read_is_skipped(broken: str) -> None:
    assert [parse_line(line) for line in (LINE, broken, LINE)] == [RECORD, None, RECORD]
    found = list(from_log(f"{line}\n".encode() for line in ("INFO: something else", LINE, broken, LINE)))
    assert [observation is None for observation in found] == [False, True, False]


def test_a_time_that_is_none_does_not_cost_the_record() -> None:
    record = parse_line(LINE.replace("2025-12-23", "2025-13-43"))
    assert record is not None
    assert record.at is None


@given(st.text() | st.text().map(lambda text: f"[TokenEstimationV2] {text}") | st.just(LINE).map(lambda t: t[::-1]))
def test_no_line_raises(line: str) -> None:
    parse_line(line)


@given(st.integers(0, len(LINE)), st.characters())
def test_a_damaged_line_is_skipped_or_read_but_never_raises(place: int, character: str) -> None:
    parse_line(LINE[:place] + character + LINE[place + 1 :])


def test_every_line_of_a_log_is_read_as_a_regular_expression_does(recorded: RecordedRun) -> None:
    """Every line of the recorded log is read as a regular expression reads it."""
    text = recorded.log.read_text()
    records = [record for line in text.splitlines() if (record := parse_line(line)) is not None]
    assert len(records) == 31
    expected = re.findall(r"predicted_output=(\d+) actual_output=(\d+) .*deliverables=(\d+) success=(\w+)", text)
    assert [
        (str(r.predicted_output_tokens), str(r.actual_tokens), str(r.deliverable_count), str(r.success))
        for r in records
    ] == expected
