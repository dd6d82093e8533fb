"""One family of exceptions for a user's mistakes: what is wrong, where, and how to mend it.

Anything else that escapes Penchant is a bug in Penchant.
"""

from __future__ import annotations


class PenchantError(Exception):
    """A mistake the user can mend. The message names the place, the value and the fix.

    Args:
        what: what is wrong, with the value that is wrong.
        where: the file, row, field or option it is wrong in; left out when `what` names it.
        fix: what to do about it.
    """

    def __init__(self, what: str, *, where: object = None, fix: str = "") -> None:
        place = f"{where}: " if where is not None else ""
        super().__init__(f"{place}{what.rstrip('.')}.{' ' + fix if fix else ''}")


class DataError(PenchantError):
    """A log, a catalogue or a column that cannot be used as it is."""


class StoreError(PenchantError):
    """A Store that is missing, damaged, or lacks what was asked of it."""


class RunError(PenchantError):
    """A run folder that is missing, damaged, in use, or made by another configuration."""


class BundleError(PenchantError):
    """A bundle that is missing or damaged; the message names the damaged file."""


class ConfigError(PenchantError):
    """A setting with an impossible value, or two that contradict each other."""


class ModelUnavailableError(PenchantError):
    """A pretrained model that is neither here nor to be had; the message names the packaged one."""
