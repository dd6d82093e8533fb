"""How outputs come to be: by one process at a time, whole or not at all, whatever was killed before."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penchant.errors import PenchantError

_TEMPORARY = re.compile(r"(?P<name>.+)\.tmp-\d+")


def made_for(path: Path) -> str:
    """The name of what a file or folder `<name>.tmp-<process>` was to become; "" where it is none of ours."""
    ours = _TEMPORARY.fullmatch(path.name)
    return ours["name"] if ours else ""


def into_place(temporary: Path, path: Path) -> None:
    """Rename a finished temporary file or folder to `path`: whoever looks sees nothing, or the old one, or it whole.

    Against kills the rename is enough. Against a power cut the bytes are forced to the disk before it, so that no name
    is there without its bytes, and the rename after it, so that it outlives what is done next (deleting the old one).
    """
    for written in (*temporary.rglob("*"), temporary):
        _force(written)
    temporary.replace(path)
    _force(path.parent)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """The name of a temporary file or folder beside `path`, for the block to make: it becomes `path` when the block
    ends (`into_place`), and is removed if that fails."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        into_place(temporary, path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    """A file or a folder, or nothing."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _force(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone(out: Path, error: type[PenchantError], *, inside: bool = False) -> Iterator[None]:
    """Hold `out` against other processes; the lock goes with the process, however it ends.

    What killed processes left of their temporary files and folders (`<name>.tmp-<process>`) is removed first.

    Args:
        inside: lock and temporaries are in the folder `out`, which grows (a run), not beside `out`, which appears whole
            (a Store, vectors, a bundle).

    Raises:
        PenchantError: an `error`: another process holds `out`, or the lock's name is that of somebody else's file.
    """
    at = out if out.name not in ("", "..") else out.resolve()  # "." has no name that a lock could stand beside
    folder, lock = (at, at / "lock") if inside else (at.parent, at.parent / f"{at.name}.lock")
    folder.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        if file.tell():  # ours are empty
            raise error(f"needs {lock} as its lock, which is another file", where=out, fix="Choose another folder.")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The former holder may have removed the file between our opening and our locking it.
            if not lock.exists() or os.fstat(file.fileno()).st_ino != lock.stat().st_ino:
                raise BlockingIOError
        except BlockingIOError:
            fix = "Wait for it to end, or choose another folder."
            raise error("another process is at work on it", where=out, fix=fix) from None
        try:
            for stale in list(folder.rglob("*.tmp-*") if inside else folder.glob("*.tmp-*")):
                name = made_for(stale)
                if not name or not (inside or name == at.name):
                    continue
                _remove(stale)
            yield
        finally:
            lock.unlink(missing_ok=True)
