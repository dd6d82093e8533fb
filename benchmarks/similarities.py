"""How alike candidates and past actions are before anything is learned: the distribution of r by modality.

Frozen vectors of one encoder all point one way, so their similarities lie in a narrow band. The table says how narrow,
and how many of DMAE's buckets would be used, as printed and after each calibration.

    python -m benchmarks.similarities --store stores/ml-1m-liked
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from benchmarks.command import argument_parser
from benchmarks.written import is_there, write

from penchant.baselines.ranking.content import ContentRankerConfig, ItemContent
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.funnel.features import Features
from penchant.papers.dmae.model import DMAEConfig
from penchant.training.impressions import ImpressionBatches

SPLIT = "temporal-successive"
BATCHES = 40
SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--store", type=Path, default=Path("stores/ml-1m-liked"))
    arguments = parser.parse_args()
    store = Store(arguments.store)
    split = load_split(store, SPLIT)
    batches = ImpressionBatches(store, split, "train", Features.fit(store, split, None))
    inputs = [batches.batch(step).inputs for step in range(2 * BATCHES)]
    pairs = [(one.requests.history, one.items) for one in inputs]
    for name in store.vector_names:
        for calibration in ("none", "whiten", "quantile"):
            row = f"{name}-{calibration}"
            if is_there(arguments.results, "similarities", row, store, SPLIT):
                print(f"{row}: finished before")
                continue
            found = store.vectors(name)
            config = ContentRankerConfig(
                modalities=(name,), content_widths=(found.values.shape[1],), calibration=calibration
            )
            content = ItemContent(config, store.num_items)
            content.fill([(np.asarray(found.values), found.present)])
            content.fit(pairs[BATCHES:])  # other pairs than those that are shown
            r = torch.cat([one.r[one.known] for one in (content(*pair) for pair in islice(pairs, BATCHES))]).numpy()
            metrics = measured(r, DMAEConfig().buckets)
            print(row, metrics)
            write(arguments.results, "similarities", row, store, SPLIT, metrics, {"calibration": calibration})


def measured(r: np.ndarray, buckets: int) -> dict[str, float]:
    """Quantiles of r, and how its values spread over equal buckets."""
    counts = np.bincount((r * (buckets - 1)).astype(np.int64), minlength=buckets)
    share = counts / counts.sum()
    used = share[share > 0]
    quantiles = {f"r at {q:.0%}": float(np.quantile(r, q)) for q in SHARES}
    return quantiles | {
        "Buckets used, of 50": float(np.exp(-(used * np.log(used)).sum())),
        "Share in the fullest": float(share.max()),
    }


if __name__ == "__main__":
    main()
