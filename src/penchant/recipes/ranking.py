"""Building a ranker of any kind, with the content it reads, and what it is trained with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from penchant.baselines.ranking.auxiliary import (
    DIMOObjective,
    DIMOObjectiveConfig,
    LRDObjective,
    LRDObjectiveConfig,
    UniSRecObjective,
    UniSRecObjectiveConfig,
)
from penchant.baselines.ranking.content import ContentRankerConfig, VectorRankerConfig
from penchant.baselines.ranking.objective import listwise, pointwise
from penchant.baselines.ranking.parts import RankerConfig
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.funnel.features import Features, RankInputs
from penchant.funnel.prerank import LightTwoTowerConfig
from penchant.models import build_model, sizes_of
from penchant.papers.dmae.objective import DMAEObjective, DMAEObjectiveConfig
from penchant.training.loop import Objective

Auxiliary = DMAEObjectiveConfig | UniSRecObjectiveConfig | LRDObjectiveConfig | DIMOObjectiveConfig
"""What a ranker may learn beside clicks: each for the model of its name."""

BATCHES = 20
"""From which a ranker's scales are taken."""
LEARNED = "learned"
"""The modality whose vectors are those of the model that `features_from` names."""


def build_ranker(
    kind: str,
    config: RankerConfig | LightTwoTowerConfig,
    store: Store,
    features: Features,
    batch: Callable[[int], Any],
    seed: int,
) -> Any:
    """A ranker or pre-ranker with fresh weights, its features scaled by what the first batches hold.

    Raises:
        StoreError: it reads content of which the Store has no vectors; the message says how to make them.
        ConfigError: it reads learned vectors, and `features` have none.
    """
    content: list[tuple[np.ndarray, np.ndarray]] = []
    if isinstance(config, ContentRankerConfig):
        content = [_vectors(store, features, name) for name in config.modalities]
        config = replace(config, content_widths=tuple(values.shape[1] for values, _ in content))
    torch.manual_seed(seed)
    sizes = sizes_of(store, len(features.names))
    if features.fields:
        sizes = replace(sizes, num_codes=features.fields.num_codes, code_columns=features.fields.columns)
    model = build_model(kind, asdict(config), sizes)
    if content:
        model.content.fill(content)
    fit_inputs(model, features, [batch(step).inputs for step in range(BATCHES)])
    if content and not isinstance(config, VectorRankerConfig):
        model.content.hold_pairs()
    return model


def fit_inputs(model: Any, features: Features, batches: list[RankInputs]) -> None:
    """Fill a ranker's buffers: the items' categories; by training batches, the scales of features and similarities."""
    getattr(model, "body", model).fit_inputs(features, batches)
    if hasattr(model, "content"):
        model.content.fit([(inputs.requests.history, inputs.items) for inputs in batches])


def _vectors(store: Store, features: Features, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of every item, and which are there."""
    if name != LEARNED:
        found = store.vectors(name)
        return np.asarray(found.values), found.present
    if features.similarity is None:
        what = f"modality {name!r} is the vectors of the model that features_from names, and none is named"
        raise ConfigError(what, fix="Set features_from to a finished retrieval run, or leave the modality out.")
    values = features.similarity.vectors.numpy()
    return values, np.asarray(values.any(axis=1))


def ranker_objective(config: Auxiliary | None, model: Any, *, lists: bool = False) -> Objective:
    """What a ranker learns: each impression by itself, or the one clicked item of each list; and what goes with it."""
    match config:
        case None:
            return listwise if lists else pointwise
        case DMAEObjectiveConfig():
            return DMAEObjective(config, model.config.modalities, model.config.interest, lists)
        case UniSRecObjectiveConfig():
            return UniSRecObjective(config, lists)
        case LRDObjectiveConfig():
            return LRDObjective(config, model.relation.embedding_dim, lists)
        case DIMOObjectiveConfig():
            return DIMOObjective(config, lists)
