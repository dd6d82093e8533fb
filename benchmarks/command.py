"""What the benchmarks' commands have in common."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penchant.recipes.runs import LoadedRun

# Torch and the recipes are imported where they are used: it takes seconds, and some commands need neither.


def argument_parser(about: str | None, threads: int | None = None) -> argparse.ArgumentParser:
    """What takes a command's arguments: --results, and --threads where their usual number is given."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--results", type=Path, default=Path("results"))
    if threads is not None:
        made.add_argument("--threads", type=int, default=threads)
    return made


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was given; torch takes the threads."""
    arguments = parser.parse_args()
    if "threads" in arguments:
        import torch

        torch.set_num_threads(arguments.threads)
    return arguments


def run_in(folder: Path, stores: Path) -> LoadedRun:
    """The finished run in a folder, whose Store lies in `stores` by the name of the folder that the run had it in.

    Raises:
        RunError: no finished run there, or the Store is another one.
        StoreError: the Store is not there.
    """
    from penchant.recipes.runs import RUN, load_run

    file = folder / RUN
    name = Path(json.loads(file.read_text())["store"]["path"]).name if file.is_file() else ""
    return load_run(folder, stores / name, "cpu")
