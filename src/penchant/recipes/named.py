"""Every recipe under its function's name: what `penchant train` can train."""

from __future__ import annotations

from collections.abc import Sequence

from penchant.errors import ConfigError
from penchant.recipes import controls
from penchant.recipes.dmae import run as dmae
from penchant.recipes.funnel.run import FunnelRun, funnel, funnel_of
from penchant.recipes.karma import generated
from penchant.recipes.karma import run as karma
from penchant.recipes.runs import RankingRun, Run
from penchant.recipes.t2diff import baselines, causal
from penchant.recipes.t2diff import run as t2diff
from penchant.recipes.ulim import run as ulim

RECIPES = (
    *controls.RETRIEVAL,
    *baselines.RETRIEVAL,
    *karma.RETRIEVAL,
    *generated.RETRIEVAL,
    *t2diff.RETRIEVAL,
    *causal.RETRIEVAL,
    *ulim.RETRIEVAL,
    *controls.RANKING,
    *dmae.RANKING,
)


def recipe_of(name: str) -> Run:
    """The recipe of that name.

    Raises:
        ConfigError: there is none.
    """
    recipes = {recipe.__name__: recipe for recipe in RECIPES}
    if name not in recipes:
        raise ConfigError(f"there is no recipe {name!r}", fix=f"Choose one of: {', '.join(recipes)}.")
    return recipes[name]()


def funnel_by(names: Sequence[str]) -> FunnelRun:
    """A funnel whose channels are these recipes, and popularity, which needs no history; the default one if none.

    Raises:
        ConfigError: there is no such recipe, it ranks, or one is named twice.
    """
    if not names:
        return funnel()
    channels = {name: recipe_of(name) for name in names}
    rankers = [name for name, run in channels.items() if isinstance(run, RankingRun)]
    if rankers or len(channels) < len(names):
        what = f"{rankers[0]} ranks and finds nothing" if rankers else f"a channel is named twice: {', '.join(names)}"
        raise ConfigError(what, fix="Name retrieval recipes, each once: `penchant train` lists them.")
    return funnel_of(channels | {"popularity": controls.popularity()})
