"""How easily a vector tells its target in batches of one category and of many, on a made-up Store."""

from __future__ import annotations

import numpy as np
import torch
from benchmarks.grouping import in_batch_hits

from penchant.data.category_batch import CategoryBatches, CategoryDataConfig
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.models import Sizes
from penchant.papers.ulim.model import ULIM, ULIMConfig
from penchant.papers.ulim.objective import ULIMObjective, ULIMObjectiveConfig


def test_only_batches_of_one_category_are_free_of_leakage(store: Store) -> None:
    """A vector that knows the category and nothing else hits by far more in batches of many categories."""
    split = load_split(store, "temporal-successive")
    category = torch.from_numpy(store.item_category.astype(np.int64))
    model = ULIM(ULIMConfig(width=8, inner=8), Sizes(num_items=store.num_items, num_categories=store.num_categories))
    model.eval().set_categories(category)
    with torch.no_grad():  # each vector is its category's, and an item's is its category's with a little noise
        model.category_query.weight.normal_()
        for parameter in (*model.long_head.parameters(), *model.tower.parameters(), *model.short.parameters()):
            parameter.zero_()
        model.actions.categories.weight.copy_(model.category_query.weight)
        model.actions.items.weight.mul_(0.05)
        model.actions.gaps.weight.zero_()
    objective = ULIMObjective(ULIMObjectiveConfig(), torch.from_numpy(split.item_counts(store)), category)
    shares = {}
    for grouping in ("category", "random"):
        config = CategoryDataConfig(batch=8, negatives=8, grouping=grouping)
        batches = CategoryBatches(store, split, config, model.config, seed=0)
        shares[grouping] = np.mean([in_batch_hits(model, objective, batches.batch(step)) for step in range(40)])
    assert shares["random"] > 2 * shares["category"]
