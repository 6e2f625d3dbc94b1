import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from autopack._util.decoding import decode_input
from autopack._util.input_files import read_input
from autopack.errors import InputFileError


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbf[1]\n")
    assert read_input(tmp_path / "file") == b"\xef\xbb\xbf[1]\n"
    assert decode_input(read_input(tmp_path / "file"), list[int], "file") == [1]


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("gone\x1b", r"gone\\x1b: No such file or directory"),
        (".", ": Is a directory"),
        ("a\0b", r"a\\x00b: not a path"),
        ("/dev/zero", "/dev/zero: larger than 64 MiB"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line_by_name(tmp_path: Path, path: str, complaint: str) -> None:
    with pytest.raises(InputFileError, match=rf"{complaint}$"):
        read_input(tmp_path / path)
    with pytest.raises(InputFileError, match=r"^SETTING: x: "):
        read_input(tmp_path / path, "SETTING: x")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not valid JSON: "),
        (b"\xff", "not valid JSON: "),
        (b"{}", "Expected `array`, got `object`"),
        (b'["x"]', r"Expected `int`, got `str` - at `\$\[0\]`"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_of_the_kind_is_refused_in_one_line(data: bytes, complaint: str) -> None:
    kind: Any = list[int] if b"[[" not in data else Any
    with pytest.raises(InputFileError, match=rf"^in\\x1bput: .*{complaint}") as refused:
        decode_input(data, kind, "in\x1bput")
    assert "\n" not in str(refused.value)


def test_a_pipe_into_which_no_program_writes_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputFileError, match="pipe: a pipe into which no program writes"):
        read_input(tmp_path / "pipe", writer_wait_s=0.01)


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """Also where its writer comes after the reader, and writes more than a pipe holds."""
    os.mkfifo(tmp_path / "pipe")
    content = b"x" * (1 << 18)
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    try:
        assert read_input(tmp_path / "pipe", writer_wait_s=60) == content
    finally:
        writer.join()


def test_a_process_substitution_is_read_however_slow_it_is(tmp_path: Path) -> None:
    """The shell hands over a pipe by its number; that a program has it open is enough, whenever it writes."""
    code = (
        "import sys; from pathlib import Path; from autopack._util.input_files import read_input\n"
        "print('reading', flush=True); print(read_input(Path(sys.argv[1]), writer_wait_s=0))"
    )
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", code, f"/dev/fd/{reading}"], pass_fds=[reading], stdout=subprocess.PIPE, text=True
    ) as process:
        os.close(reading)
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        os.write(writing, b"late")
        os.close(writing)
        assert process.stdout.read() == "b'late'\n"
