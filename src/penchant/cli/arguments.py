"""How every command reads its arguments: a dataclass, whose docstrings are the help."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from penchant.data.split import Split, load_split
from penchant.data.store import Store
from penchant.data.user_split import read_split
from penchant.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")
Flat = Annotated[T, tyro.conf.arg(name="")]
"""A nested dataclass whose fields are named on the command line without a prefix."""


def parse(command: str, kind: Callable[..., T], args: Sequence[str], says: str | None = None) -> T:
    """The arguments as a `kind`. Ends the process with a message on a wrong one, or after `--help`.

    Args:
        says: what the help begins with; the `kind`'s own words if None.
    """
    return tyro.cli(kind, prog=f"penchant {command}", args=args, description=says)


def parse_with_run(command: str, kind: type[T], run: R, args: Sequence[str], says: str | None = None) -> tuple[T, R]:
    """The arguments as a `kind`, and a recipe's run with the fields that were set by name (`says`: see `parse`)."""
    field = ("run", Flat[type(run)], dataclasses.field(default_factory=lambda: run))
    both: Any = dataclasses.make_dataclass(kind.__name__, [field], bases=(kind,), frozen=True, kw_only=True)
    both.__doc__ = kind.__doc__
    chosen = parse(command, both, args, says)
    return chosen, chosen.run


def open_split(store: Store, split: str) -> Split:
    """A split of the Store by name; or a user's own from a file, which is added to the Store under the file's name."""
    path = Path(split)
    if path.suffix and path.is_file():
        return read_split(store, path)
    return load_split(store, split)


def check_folder(out: Path | None, option: str = "--out") -> None:
    """Before minutes of work: the folder that its file goes into is there."""
    if out is not None and not out.parent.is_dir():
        raise ConfigError("no such folder", where=out.parent, fix=f"Make it first, or choose another {option}.")


def cold_users(split: Split, window: str) -> str:
    """What to say of the users that `window` cannot judge."""
    return f"{split.cold_users(window):,} users without history before the window are no targets."


def pick(
    command: str,
    what: str,
    choices: Mapping[str, str],
    usage: str,
    args: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> str | None:
    """The choice that the first argument names; None after its help, which lists all of them.

    Args:
        groups: heading -> the choices that the help lists under it; one list of all if None.

    Raises:
        ConfigError: it names none.
    """
    if not args or args[0] in ("-h", "--help"):
        console = Console(highlight=False, soft_wrap=True)
        console.print(usage, markup=False)
        for heading, names in (groups or {"": choices}).items():
            if heading:
                console.print(heading, markup=False)
            listing = Table(what, "what it is", box=None, pad_edge=False, show_header=not heading)
            listing.columns[0].min_width = max(map(len, choices)) + 2
            for name in names:
                listing.add_row(f"  {name}", choices[name])
            Console(highlight=False).print(listing)
        return None
    if args[0] not in choices:
        near = difflib.get_close_matches(args[0], choices, 1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        fix = f"{meant}Choose one of: {', '.join(choices)}. See `penchant {command} --help`."
        raise ConfigError(f"there is no {what} {args[0]!r}", fix=fix)
    return args[0]
