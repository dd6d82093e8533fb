"""Every recipe under its function's name: what `penchant train` can train."""

from __future__ import annotations

from penchant.errors import ConfigError
from penchant.recipes import controls
from penchant.recipes.dmae import run as dmae
from penchant.recipes.karma import generated
from penchant.recipes.karma import run as karma
from penchant.recipes.runs import Run
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
