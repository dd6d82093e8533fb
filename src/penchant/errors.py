"""One family of exceptions for a user's mistakes: what is wrong, where, and how to mend it.

Anything else that escapes Penchant is a bug in Penchant.
"""

from __future__ import annotations

import errno
from typing import Any


class PenchantError(Exception):
    """A mistake the user can mend. The message names the place, the value and the fix.

    Args:
        what: what is wrong, with the value that is wrong.
        where: the file, row, field or option it is wrong in; left out when `what` names it.
        fix: what to do about it.
    """

    def __init__(self, what: str, *, where: object = None, fix: str) -> None:
        place = f"{where}: " if where is not None else ""
        said = f"{place}{what.rstrip('.')}. {fix}"
        # One line, whatever a file holds: line ends and control letters are shown as they are escaped.
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in said))


DISK_FIXES = {
    errno.ENOSPC: "Free space there, or use another disk; TMPDIR says where temporary files go.",
    errno.EDQUOT: "Free space there, or use another disk; TMPDIR says where temporary files go.",
    errno.EFBIG: "Use a disk that takes larger files; TMPDIR says where temporary files go.",
    errno.EROFS: "Use a folder that can be written.",
    errno.EACCES: "Give this user the right to it, or use another place.",
    errno.EPERM: "Give this user the right to it, or use another place.",
    errno.EISDIR: "Give a file, not a folder.",
    errno.ENOTDIR: "Part of its path is a file, not a folder.",
    errno.ENAMETOOLONG: "Give a shorter name.",
}
"""What to do about what the system refuses to read or write."""


def disk_fix(error: OSError) -> str:
    """What to do about an error of the system's."""
    return DISK_FIXES.get(error.errno or 0, "Is the disk full?")


class DataError(PenchantError):
    """A log, a catalogue or a column that cannot be used as it is."""


class StoreError(PenchantError):
    """A Store that is missing, damaged, or lacks what was asked of it."""


class RunError(PenchantError):
    """A run folder that is missing, damaged, in use, or made by another configuration."""


class DivergedError(RunError):
    """A training whose loss is no longer a number."""


class BundleError(PenchantError):
    """A bundle that is missing or damaged; the message names the damaged file."""


class ConfigError(PenchantError):
    """A setting with an impossible value, or two that contradict each other."""


class ModelUnavailableError(PenchantError):
    """A pretrained model that is neither here nor to be had; the message names the packaged one."""


def at_least(least: int, config: Any, *names: str) -> None:
    """Refuse a config of which one of these fields is below.

    Raises:
        ConfigError: which field, and what it may be.
    """
    for name in names:
        if getattr(config, name) < least:
            raise ConfigError(f"{name} is {getattr(config, name)}", fix=f"Set {name} to {least} or more.")
