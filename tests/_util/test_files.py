import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from autopack._util.files import atomic_write, ensure_private_folder, is_at, make_folders, open_private, try_lock

MAKE = os.O_CREAT | os.O_RDWR


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(autouse=True)
def _no_umask() -> Iterator[None]:
    """A file or folder is private because it is made so, not because of the user's umask."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_missing_folders_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    make_folders(tmp_path / "a" / "b")
    make_folders(tmp_path / "a" / "b")
    assert [mode_of(tmp_path / name) for name in ("a", "a/b")] == [0o700, 0o700]


def test_a_link_or_a_file_is_no_private_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "file").touch()
    ensure_private_folder(tmp_path / "folder")
    with pytest.raises(NotADirectoryError, match=r"not a folder of this user.*link"):
        ensure_private_folder(tmp_path / "link")
    with pytest.raises(OSError, match="file"):
        ensure_private_folder(tmp_path / "file")


def test_a_private_file_is_a_regular_one_and_no_link(tmp_path: Path) -> None:
    os.close(open_private(tmp_path / "file", MAKE))
    assert mode_of(tmp_path / "file") == 0o600
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    for name, kind in (("link", OSError), ("fifo", PermissionError), (".", OSError)):
        with pytest.raises(kind):
            open_private(tmp_path / name, MAKE)


def test_a_file_has_one_lock(tmp_path: Path) -> None:
    first, second = (open_private(tmp_path / "file", MAKE) for _ in range(2))
    try:
        assert (try_lock(first), try_lock(second)) == (True, False)
        os.close(first)
        assert try_lock(second)
    finally:
        os.close(second)


def test_a_file_that_was_replaced_or_removed_is_not_at_its_path(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = open_private(path, MAKE)
    try:
        assert is_at(file, path)
        path.rename(tmp_path / "elsewhere")
        assert not is_at(file, path)
        path.touch()
        assert not is_at(file, path)
        assert is_at(file, tmp_path / "elsewhere")
    finally:
        os.close(file)


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    path.chmod(0o644)
    with atomic_write(path) as file:
        file.write(b"after")
        assert path.read_text() == "before"
    assert (path.read_text(), mode_of(path), names_in(tmp_path)) == ("after", 0o600, ["file"])


def write_half_and_stop(file: BinaryIO) -> None:
    file.write(b"half")
    raise KeyboardInterrupt


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        write_half_and_stop(file)
    assert (path.read_text(), names_in(tmp_path)) == ("before", ["file"])


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_only_a_regular_file_is_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    (tmp_path / "target").write_text("before")
    make: dict[str, Callable[[], None]] = {
        "link": lambda: path.symlink_to("target"),
        "folder": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
    }
    make[kind]()
    complaint = "a link" if kind == "link" else "not a regular file"
    with pytest.raises(OSError, match=rf"it is {complaint}; give the path of a file"), atomic_write(path):
        pass
    assert (tmp_path / "target").read_text() == "before"
    assert sorted(names_in(tmp_path)) == ["it", "target"]


def test_the_error_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, atomic_write(tmp_path / "gone" / "file"):
        pass
    assert raised.value.filename == str(tmp_path / "gone" / "file")
