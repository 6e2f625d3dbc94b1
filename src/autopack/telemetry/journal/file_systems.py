"""On which file systems a segment that was made in full keeps its promise, so that it may be mapped.

To change a page of a file takes no new room on ext4, xfs and tmpfs, once the file has its blocks. Where the file system
copies on write (btrfs, ZFS, bcachefs) it does; what overlay, NFS or an unknown one does is not known. These count as
such, and so does every system but Linux.
"""

from __future__ import annotations

import os
from pathlib import Path

from autopack.telemetry.journal.format import Medium

_KEEP_THEIR_PROMISE = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})
_MOUNTS = Path("/proc/self/mountinfo")


def medium_in(folder: Path, mounts: Path = _MOUNTS) -> Medium:
    """How segments in a folder are appended to. A subvolume of btrfs has the device of no mount: unknown."""
    found = folder.stat().st_dev
    device = f"{os.major(found)}:{os.minor(found)}"
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        lines = []
    types = {_type_of(line) for line in lines if f" {device} " in line}
    return Medium.MAPPED if types and types <= _KEEP_THEIR_PROMISE else Medium.WRITTEN


def _type_of(mount: str) -> str:
    """What follows the dash of `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`."""
    return mount.partition(" - ")[2].partition(" ")[0]
