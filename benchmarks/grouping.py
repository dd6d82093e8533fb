"""Why ULIM's batches are of one category: how easily the long-term vector tells its target, in batches of each kind.

Two trained runs, Table 2's ulim and no-grouping, each asked on batches of the test window of both kinds: the share of
targets that the vector of their category puts before all other items of the batch. In batches of many categories that
is easy for nothing, as the subsequence tells the category. Beside it what the run finds in the whole catalogue.

    penchant reproduce ulim-table2 --rows ulim no-grouping
    python -m benchmarks.grouping FOLDER_OF_ULIM FOLDER_OF_NO_GROUPING
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from benchmarks.command import argument_parser
from benchmarks.written import write

from penchant.data.category_batch import CategoryBatch, CategoryBatches, CategoryDataConfig
from penchant.evaluation.results import find_results
from penchant.funnel.rank import judging
from penchant.papers.ulim.model import ULIM
from penchant.papers.ulim.objective import ULIMObjective, ULIMObjectiveConfig, read
from penchant.recipes.runs import load_run


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("ulim", type=Path, help="folder of the run that learned from batches of one category")
    parser.add_argument("no_grouping", type=Path, help="folder of the one that learned from batches of all")
    parser.add_argument("--store", type=Path, help="where their Store lies, if not where it was")
    parser.add_argument("--batches", type=int, default=100)
    arguments = parser.parse_args()
    for name, folder in {"ulim": arguments.ulim, "no-grouping": arguments.no_grouping}.items():
        loaded = load_run(folder, arguments.store, device="cpu")
        store, split, model = loaded.store, loaded.split, loaded.model
        assert isinstance(model, ULIM)
        (found,) = (
            r for r in find_results(arguments.results, "ulim", "table2") if (r.row, r.data) == (name, store.name)
        )
        category = torch.from_numpy(store.item_category.astype(np.int64))
        objective = ULIMObjective(ULIMObjectiveConfig(), torch.from_numpy(split.item_counts(store)), category)
        metrics = {"HR@500": found.metrics["HR@500"]}
        for label, grouping in (("one category", "category"), ("all categories", "random")):
            config = replace(CategoryDataConfig(), grouping=grouping)
            batches = CategoryBatches(store, split, config, model.config, seed=0, window="test")
            with judging(model):
                hits = [in_batch_hits(model, objective, batches.batch(i)) for i in range(arguments.batches)]
            metrics[f"First in batches of {label}"] = float(np.mean(hits))
        print(name, metrics, flush=True)
        settings = {"batches": arguments.batches, "model": loaded.described["config"]["model"]}
        write(arguments.results, "grouping", name, store, split.name, metrics, settings, window="test")


@torch.no_grad()
def in_batch_hits(model: ULIM, objective: ULIMObjective, batch: CategoryBatch) -> float:
    """Share of targets that v^(l) puts before all other candidates of the batch.

    In a batch of many categories it is high for nothing: the target's category is known from the subsequence, so that
    all other categories' items are ruled out. That is the leakage that batches of one category block (section 2.1.2).
    """
    _, long, _ = read(model, batch)
    items = objective.candidates(batch)
    scores = long @ model.embed_items(items).T
    own = scores.gather(1, torch.searchsorted(items, batch.targets)[:, None])
    return float(((scores >= own).sum(1) == 1).float().mean())


if __name__ == "__main__":
    main()
