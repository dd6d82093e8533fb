"""What many runs begin with: made once, kept in the cache under a hash of all it depends on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from penchant.data.output import alone
from penchant.data.store import cache_root, fingerprint
from penchant.errors import RunError

T = TypeVar("T")


def cached(kind: str, depends: Any) -> Path:
    """The folder of the cache for what depends on these plain values; `kind` is its folder and what its name begins
    with (karma/warm-up)."""
    return cache_root() / f"{kind}-{fingerprint(depends)}"


def made_once(folder: Path, make: Callable[[Path], T], read: Callable[[Path], T | None] = lambda folder: None) -> T:
    """What `make` comes to in a folder that it alone works in.

    Args:
        make: goes on from what a killed process left there.
        read: what was made, None where that is not finished; any number of processes may read. Without it, `make` is
            to find out by itself.

    Raises:
        RunError: another process is making it.
    """
    made = read(folder)
    if made is not None:
        return made
    with alone(folder, RunError, inside=True):
        made = read(folder)  # another process may have finished it between the look and the lock
        return make(folder) if made is None else made
