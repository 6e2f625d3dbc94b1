import os
import pty
from pathlib import Path

import pytest
from tests.write_side import run_python

from autopack._util.terminal import is_terminal


def test_a_terminal_is_told_from_a_file_and_a_closed_stream(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream:
        assert is_terminal(stream)
    os.close(controller)
    with (tmp_path / "file").open("w") as stream:
        assert not is_terminal(stream)
    assert not is_terminal(None)
    assert not is_terminal(object())


# What a program prints, in a child whose standard error is the file or pipe that `prepare` makes of descriptor 2.
PROGRAM = """
    {prepare}
    from autopack._util.terminal import tolerate_stderr_errors
    with tolerate_stderr_errors():
        for number in range(3):
            print("x" * 100_000, number, file=sys.stderr)
        sys.stderr.write("and more")
        sys.stderr.flush()
        print("went on", sys.stderr.fileno() if {has_descriptor} else "")
    print("and ended", file=sys.stdout)
"""
BROKEN_PIPE = "reading, writing = os.pipe(); os.close(reading); os.dup2(writing, 2)"
FULL_DISK = "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)"


@pytest.mark.parametrize(
    ("prepare", "has_descriptor"),
    [
        pytest.param(BROKEN_PIPE, True, id="broken pipe"),
        pytest.param(
            FULL_DISK,
            True,
            id="full disk",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full"),
        ),
        pytest.param("sys.stderr = None", False, id="closed"),
    ],
)
def test_a_standard_error_that_fails_does_no_harm(prepare: str, has_descriptor: bool) -> None:
    """Neither while the program runs nor at its exit, where Python flushes once more and would end with 120."""
    done = run_python(PROGRAM.format(prepare=prepare, has_descriptor=has_descriptor))
    assert done.stdout.splitlines() == ["went on 2" if has_descriptor else "went on ", "and ended"]


def test_without_the_guard_a_broken_pipe_ends_the_program() -> None:
    """What the test above would see if the guard did nothing."""
    done = run_python(f"{BROKEN_PIPE}\nsys.stderr.write('x' * 100_000)\nsys.stderr.flush()", exit_code=None)
    assert done.returncode != 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_failed_standard_output_does_not_fail_again_at_exit() -> None:
    program = """
        from autopack._util.terminal import redirect_to_devnull_if_broken
        os.dup2(os.open('/dev/full', os.O_WRONLY), 1)
        sys.stdout.write("lost")
        if len(sys.argv) > 1:
            redirect_to_devnull_if_broken(sys.stdout)
    """
    assert run_python(program, "guarded").returncode == 0
    assert run_python(program, exit_code=120).returncode == 120
