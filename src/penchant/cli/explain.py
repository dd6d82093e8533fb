"""penchant explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from tyro.conf import Positional

from penchant.cli.arguments import check_folder, parse
from penchant.errors import ConfigError
from penchant.recipes.karma.explain import Explainer
from penchant.recipes.karma.explained import write_explained
from penchant.recipes.runs import check_run, load_run


@dataclass(frozen=True, kw_only=True)
class Explain:
    """Read an interest: what KARMA's vector of a user tells in words, the items nearest to it, and their pictures.

    Needs a run that was taught to be read: `penchant train karma_decoded STORE`, or, to read queries too,
    `penchant train karma_search STORE --objective.reconstruct 0.1`. The words are told from the vector alone; the
    history is not given to what tells them.

    $ penchant explain runs/karma --user 42
    $ penchant explain runs/search --user 42 --query "red shoes"
    $ penchant explain runs/karma --drawn 10 --check 1000 --out interests.html
    """

    run: Positional[Path]
    """Folder of a finished run."""
    user: tuple[str, ...] = ()
    """Users, by their ids in the logs."""
    query: str | None = None
    """What they typed, for a model of queries. --check does without."""
    drawn: int = 0
    """So many users more, drawn at random."""
    check: int = 0
    """Also tell whether words are about their user, by so many clicks that no training has seen; takes minutes."""
    k: int = 5
    """Items shown of each list; on the page 10 or more."""
    seed: int = 0
    """Of what is drawn."""
    store: Path | None = None
    """The Store, where it is not where the run found it."""
    out: Path | None = None
    """An HTML page of it all, with pictures; holds titles and pictures of the catalogue."""
    device: str = "auto"


def explain(args: Sequence[str]) -> None:
    """Read interests in words."""
    chosen = parse("explain", Explain, args)
    check_run(chosen.run)  # first: whom to explain is a question of a run that is there
    if not chosen.user and chosen.drawn < 1 and chosen.check < 1:
        raise ConfigError("nobody to explain", fix="Give --user ID, --drawn 10, or --check 1000.")
    if min(chosen.drawn, chosen.check) < 0 or chosen.k < 1:
        what = f"--drawn {chosen.drawn}, --check {chosen.check}, --k {chosen.k}"
        raise ConfigError(what, fix="Give no negative number, and k of 1 or more.")
    check_folder(chosen.out)
    console = Console(highlight=False)
    reads = Explainer(chosen.run, load_run(chosen.run, chosen.store, chosen.device))
    users = list(dict.fromkeys([*chosen.user, *reads.drawn(chosen.drawn, chosen.seed)]))
    queries = None if chosen.query is None else [chosen.query] * len(users)
    explained = reads.explain(users, queries, max(chosen.k, 10)) if users else []
    for one in explained:
        typed = f'  searching "{one.query}"' if one.query else ""
        console.print(f"[bold]User {escape(one.user_id)}[/]{escape(typed)}")
        console.print(f"  [bold]{escape(one.words or '(no word)')}[/]", soft_wrap=True)
        parts = {"last": one.history, "nearest": one.nearest, "pictures": one.pictures}
        for name, items in parts.items():
            if items:
                titles = "; ".join(reads.titles[item] for item in items[: chosen.k])
                console.print(f"  {name:<9}{titles}", soft_wrap=True, markup=False)
    checked = reads.readability("test", chosen.check, chosen.seed) if chosen.check else None
    for line in checked.lines() if checked else ():
        console.print(line, markup=False, soft_wrap=True)
    if chosen.out is not None:
        write_explained(explained, reads.store, reads.titles, str(chosen.run), chosen.out, checked)
        console.print(f"Page: {chosen.out}", soft_wrap=True)
