"""The command line. Nothing heavy is imported before the command is known, so that help answers at once."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from rich.console import Console

from penchant.errors import DISK_FIXES, PenchantError, disk_fix

COMMANDS = {
    "prepare": ("data", "Turn raw logs and a catalogue into a Store"),
    "encode": ("data", "Add frozen text and image vectors to a Store"),
    "train": ("train", "Train one model on one split of a Store"),
    "evaluate": ("train", "Judge a trained model, or a list made elsewhere, on the whole catalogue"),
    "explain": ("explain", "Read in words and pictures what KARMA knows of a user"),
    "funnel": ("funnel", "Train and judge a whole funnel; write its report"),
    "export": ("serve", "Pack what serving needs of a funnel, and no more, into a bundle"),
    "serve": ("serve", "Serve a bundle over HTTP, with a page to look at it"),
    "reproduce": ("results", "Run what is missing of a table of results"),
    "report": ("results", "Write a Store's data sheet, collapse diagnostics of runs, T2Diff's leak or docs/results.md"),
    "bazaar": ("bazaar", "The best that anyone could do on a Store of the generated market"),
    "demo": ("funnel", "Real logs to a served funnel in a few minutes (MovieLens 100K)"),
}
"""Command -> (module of penchant.cli that has a function of its name, what it does)."""

RESUMED = ("train", "funnel", "encode", "reproduce", "demo")
"""Commands that go on where they were interrupted."""

HELP = """\
[bold]penchant[/] turns a shop's logs and catalogue into a trained, judged and served funnel:
retrieval, pre-ranking and ranking, for personalized search and recommendation.

[bold]From logs to lists[/]
  penchant prepare movielens --path ml-100k --view liked --out stores/ml-100k
  penchant train sasrec stores/ml-100k --out runs/sasrec
  penchant evaluate runs/sasrec
  penchant funnel stores/ml-100k --out runs/funnel
  penchant export runs/funnel --out bundles/movies
  penchant serve bundles/movies

[bold]Commands[/]
{commands}

  penchant COMMAND --help explains a command, with examples. New here? Try: penchant demo
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns: 0 = done, 2 = a mistake the user can mend (the message says how), 130 = interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        commands = "\n".join(f"  {name:<10} {says}" for name, (_, says) in COMMANDS.items())
        Console(highlight=False, soft_wrap=True).print(HELP.format(commands=commands))
        return 0
    if args[0] == "--version":
        Console(highlight=False).print(f"penchant {version('penchant')}")
        return 0
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    if args[0] not in COMMANDS:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        errors.print(f"[red]error:[/] there is no command {args[0]!r}.{hint} See `penchant --help`.")
        return 2
    module = import_module(f"penchant.cli.{COMMANDS[args[0]][0]}")
    try:
        getattr(module, args[0])(args[1:])
    except PenchantError as error:
        errors.print("[red]error:[/]", end=" ")
        errors.print(str(error), markup=False)
        return 2
    except BrokenPipeError:  # who reads (head, less) has seen enough; nor shall the flush at exit complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in DISK_FIXES:
            raise
        errors.print("[red]error:[/]", end=" ")
        errors.print(str(PenchantError(str(error.strerror), where=error.filename, fix=disk_fix(error))), markup=False)
        return 2
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where it stopped" if args[0] in RESUMED else ""
        errors.print(f"interrupted{goes_on}")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
