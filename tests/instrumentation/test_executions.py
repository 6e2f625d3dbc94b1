import os

from autopack.instrumentation.executions import Executions, Turn


def executions(attempt: int = 1) -> Executions:
    return Executions(attempt, lambda last: last + 1)


def call(entry: Executions, stop_reason: str) -> tuple[int, int]:
    turn = entry.begin()
    entry.end(turn, stop_reason)
    return turn.attempt, turn.turn


def test_a_tool_loop_is_the_turns_of_one_execution() -> None:
    entry = executions()
    reasons = ["tool_use", "tool_calls", "pause_turn", "end_turn", "end_turn"]
    assert [call(entry, reason) for reason in reasons] == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 1)]


def test_after_a_reply_that_was_cut_off_comes_the_next_attempt() -> None:
    entry = executions(3)
    reasons = ["max_tokens", "length", "tool_use", "end_turn", "end_turn"]
    assert [call(entry, reason) for reason in reasons] == [(3, 1), (4, 1), (5, 1), (5, 2), (3, 1)]


def test_twenty_calls_at_once_are_twenty_executions() -> None:
    """Also where each of them ends in a tool call: whose turn the next one is cannot be told."""
    entry = executions()
    turns = [entry.begin() for _ in range(20)]
    assert {(turn.attempt, turn.turn) for turn in turns} == {(1, 1)}
    for turn in turns:
        entry.end(turn, "tool_use")


def test_a_call_beside_an_open_one_is_no_turn() -> None:
    entry = executions()
    assert call(entry, "tool_use") == (1, 1)
    other = entry.begin()
    assert (other.attempt, other.turn) == (1, 2)
    assert call(entry, "end_turn") == (1, 1)
    entry.end(other, "end_turn")


def test_a_call_that_fails_leaves_its_turn_to_the_next_one() -> None:
    entry = executions()
    assert call(entry, "tool_use") == (1, 1)
    failed = entry.begin()
    entry.fail(failed)
    assert call(entry, "end_turn") == (1, 2)
    assert Turn(1, 1).continued is None


def test_calls_of_the_parent_are_not_open_in_a_forked_child() -> None:
    """A tool loop in the child has turns, whatever the parent was waiting for when it forked."""
    entry = executions()
    entry.begin()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        first = entry.begin()
        entry.end(first, "tool_use")
        os.write(writing, b"%d %d" % (first.turn, entry.begin().turn))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert os.read(reading, 10) == b"1 2"
    os.close(reading)
