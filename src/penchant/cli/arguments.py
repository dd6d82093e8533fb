"""How every command reads its arguments: a dataclass, whose docstrings are the help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import tyro

T = TypeVar("T")


def parse(command: str, kind: type[T], args: Sequence[str], default: T | None = None) -> T:
    """The arguments as a `kind`. Ends the process with a message on a wrong one, or after `--help`."""
    markers = (tyro.conf.ConsolidateSubcommandArgs, tyro.conf.OmitSubcommandPrefixes)
    prog = f"penchant {command}"
    if default is None:
        return tyro.cli(kind, prog=prog, args=args, config=markers)
    return tyro.cli(kind, prog=prog, args=args, default=default, config=markers)
