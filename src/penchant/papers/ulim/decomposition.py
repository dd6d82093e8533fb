"""Where ULIM's hit rate comes from: the category, the item within it, the short-term channel; and what bounds it.

HR@N = P(category among the K) P(item | category) + what the short-term channel alone finds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.data.history import Requests, requests_before_events
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.evaluation.protocol import subsample
from penchant.funnel.interests import InterestLists, Merge, interest_keys, merge_interests
from penchant.funnel.rank import judging
from penchant.papers.ulim.categories import counted_categories
from penchant.papers.ulim.model import DEPTH, ULIM

CATEGORY_KS = (1, 2, 5, 10, 20)
BATCH = 64
"""Requests at once, of like history length."""


@dataclass(frozen=True)
class Decomposition:
    """Of each of T targets, in the Store's order.

    Attributes:
        values: 0 or 1 each. "category HR@k" of what predicts categories, "frequency HR@k" and "last HR@k" of what
            needs no learning; "category" = among the K that are searched; "HR@N long" = found by its category's list
            within the first N; "HR@N short alone" = by the short one only, so that HR@N is the sum of the two; "HR@N
            oracle" = found if its category were the only one searched; "empty" = no earlier action in its category;
            "unvisited" = no action in it at all; "repeated" = the item itself is in what is read (U8).
        lengths: actions of its category in the earlier part of its history, at most `max_subsequence`.
    """

    ks: tuple[int, ...]
    values: dict[str, Float[np.ndarray, " T"]]
    lengths: Int[np.ndarray, " T"]

    def notes(self) -> tuple[str, ...]:
        """A line for each N, and one on what there is to read."""
        mean = {name: float(value.mean()) for name, value in self.values.items()}
        category = mean["category"]
        said = [
            f"HR@{n} {mean[f'HR@{n} long'] + mean[f'HR@{n} short alone']:.4f} = {category:.4f} (category among those "
            f"searched) x {mean[f'HR@{n} long'] / max(category, 1e-12):.4f} (item, given it) + "
            f"{mean[f'HR@{n} short alone']:.4f} (short-term channel alone); "
            f"{mean[f'HR@{n} oracle']:.4f} with the category known."
            for n in self.ks
        ]
        middle, most = np.percentile(self.lengths, (50, 95))
        said.append(
            f"Earlier actions in the target's category: median {middle:.0f}, 95th percentile {most:.0f}; none for "
            f"{mean['empty']:.1%} of the targets, and for {mean['unvisited']:.1%} not among the recent ones either. "
            f"{mean['repeated']:.1%} of the targets are items that the history has."
        )
        return tuple(said)


def decompose(
    model: ULIM, store: Store, split: Split, window: str, ks: Sequence[int], targets: int | None = None
) -> Decomposition:
    """Of the same targets as `evaluate_retrieval` judges with the same arguments.

    Raises:
        ValueError: an N beyond the places that are ordered.
    """
    if max(ks) > DEPTH:
        raise ValueError(f"lists are ordered down to place {DEPTH}, HR@{max(ks)} is asked for")
    events, _ = subsample(split.targets(window), targets, seed=0)
    users = np.searchsorted(store.user_indptr, events, side="right") - 1
    order = np.argsort(events - store.user_indptr[users], kind="stable")
    device = model.item_category.device
    parts: list[dict[str, Tensor]] = []
    with judging(model):
        vectors = model.item_vectors()
        for start in range(0, len(events), BATCH):
            batch = events[order[start : start + BATCH]]
            requests = requests_before_events(store, batch, model.config.max_len).to(device)
            items = torch.from_numpy(store.event_item[batch].astype(np.int64)).to(device)
            parts.append({k: v.cpu() for k, v in _judged(model, requests, items, vectors, ks).items()})
    values = {name: np.empty(len(events)) for name in parts[0]}
    for name, value in values.items():
        value[order] = torch.cat([part[name] for part in parts]).double().numpy()
    lengths = values.pop("length").astype(np.int64)
    return Decomposition(tuple(ks), values, lengths)


def _judged(
    model: ULIM, requests: Requests, items: Int[Tensor, " B"], vectors: Float[Tensor, "I D"], ks: Sequence[int]
) -> dict[str, Tensor]:
    config, categories = model.config, model.item_category[items]
    out: dict[str, Tensor] = {}
    probs = model.category_probs(requests)
    for name in ("category", "frequency", "last"):
        if name != "category":
            probs = counted_categories(config, requests, model.item_category, model.num_categories, name)
        place = _place(probs, categories)
        out |= {f"{name} HR@{k}": place <= k for k in CATEGORY_KS}
    interests = model.searches(requests)
    out["category"] = (interests.categories[:, 1:] == categories[:, None]).any(1) & (categories > 0)
    known = model.toward(requests, categories[:, None], torch.ones_like(categories[:, None]).to(vectors))
    oracle = known if config.channels != "short" else interests
    for label, found in (("", interests), (" oracle", oracle)):
        hit, long = hits(model.lists_of(found, vectors), items, ks, config.merge, model.short_share)
        if label:
            out |= {f"HR@{n}{label}": hit[:, i] for i, n in enumerate(ks)}
        else:
            out |= {f"HR@{n} long": long[:, i] for i, n in enumerate(ks)}
            out |= {f"HR@{n} short alone": hit[:, i] & ~long[:, i] for i, n in enumerate(ks)}
    recent, earlier = config.places(requests.lengths, requests.history.shape[1])
    of = model.item_category[requests.history] == categories[:, None]
    length = (of & earlier).sum(1).clamp(max=config.max_subsequence)
    out["repeated"] = ((requests.history == items[:, None]) & (recent | earlier)).any(1)
    return {**out, "empty": length == 0, "unvisited": ~(of & (recent | earlier)).any(1), "length": length}


def hits(
    lists: InterestLists, items: Int[Tensor, " B"], ks: Sequence[int], how: Merge, short_share: float
) -> tuple[Bool[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """Whether each item is among the first of the merged list, for each length; and whether its category put it there.

    A category's list has put an item there if the item's key in that list is among the first: alone it would suffice.
    """
    merged = merge_interests(lists, max(ks), how, short_share)
    _, long = interest_keys(lists, how, short_share)
    own = torch.where(lists.items == items[:, None, None], long, torch.inf).flatten(1)
    own = torch.nn.functional.pad(own, (0, 1), value=torch.inf).amin(1, keepdim=True)
    last = merged.keys[:, [k - 1 for k in ks]]
    at = merged.items == items[:, None]
    place = torch.where(at.any(1), at.long().argmax(1), max(ks))[:, None]
    hit = place < torch.tensor(list(ks), device=items.device)
    return hit, hit & (own <= last) & (own < torch.inf)


def _place(probs: Float[Tensor, "B C"], categories: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Place of a category by its probability, ties by number as `topk` may take them; beyond all where it has none."""
    own = probs.gather(1, categories[:, None])
    ahead = (probs > own).sum(1) + ((probs == own).cumsum(1).gather(1, categories[:, None]))[:, 0]
    return torch.where(own[:, 0] > 0, ahead.double(), torch.inf)
