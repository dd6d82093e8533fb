"""Every recipe under its function's name: what `penchant train` can train."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from penchant.errors import ConfigError
from penchant.recipes import controls
from penchant.recipes.dmae import run as dmae
from penchant.recipes.funnel.plan import FunnelRun, funnel, funnel_of
from penchant.recipes.karma import generated
from penchant.recipes.karma import run as karma
from penchant.recipes.runs import Run
from penchant.recipes.t2diff import baselines, causal
from penchant.recipes.t2diff import run as t2diff
from penchant.recipes.ulim import run as ulim

RETRIEVAL: tuple[Callable[[], Run], ...] = (
    *controls.RETRIEVAL,
    *baselines.RETRIEVAL,
    *karma.RETRIEVAL,
    *generated.RETRIEVAL,
    *t2diff.RETRIEVAL,
    *causal.RETRIEVAL,
    *ulim.RETRIEVAL,
)
RANKING: tuple[Callable[[], Run], ...] = (*controls.RANKING, *dmae.RANKING)
RECIPES = (*RETRIEVAL, *RANKING)


def recipe_of(name: str, among: Sequence[Callable[[], Run]] = RECIPES) -> Run:
    """The recipe of that name.

    Raises:
        ConfigError: there is none.
    """
    recipes = {recipe.__name__: recipe for recipe in among}
    if name not in recipes:
        near = difflib.get_close_matches(name, recipes, 1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"there is no recipe {name!r}", fix=f"{meant}Choose one of: {', '.join(recipes)}.")
    return recipes[name]()


def funnel_by(names: Sequence[str]) -> FunnelRun:
    """A funnel whose channels are these recipes, and popularity, which needs no history; the default one if none.

    Raises:
        ConfigError: there is no such recipe, it ranks, or one is named twice.
    """
    if not names:
        return funnel()
    if rankers := [name for name in names if name in {recipe.__name__ for recipe in RANKING}]:
        fix = "Name retrieval recipes: `penchant train` lists them."
        raise ConfigError(f"{rankers[0]} ranks and finds nothing", fix=fix)
    channels = {name: recipe_of(name, RETRIEVAL) for name in names}
    if len(channels) < len(names):
        raise ConfigError(f"a channel is named twice: {', '.join(names)}", fix="Name each once.")
    return funnel_of(channels | {"popularity": controls.popularity()})
