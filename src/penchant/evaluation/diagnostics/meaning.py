"""Does a list still mean what the target means: overlap of terms; and how a model of vectors ranks what was shown."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from penchant.data.history import requests_before_times, texts_of
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.evaluation.metrics import GroupAUC, gauc
from penchant.funnel.rank import judging

_COMMON = "a an and are as at by for from has in is it its of on or that the to was with"
STOP_WORDS = frozenset(_COMMON.split())
_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def terms_of(text: str) -> set[str]:
    """Lower-cased words without stop words; of a script that has no spaces, every two characters in a row."""
    found: set[str] = set()
    for word in _WORD.findall(text.lower()):
        if _UNSPACED.search(word) and len(word) > 2:
            found.update(word[i : i + 2] for i in range(len(word) - 1))
        elif word not in STOP_WORDS:
            found.add(word)
    return found


def item_terms(store: Store) -> Int[np.ndarray, "I M"]:
    """The terms of each item's title and category path as numbers from 1, 0 = none; row 0 is padding.

    Further text is left out: overlap of long texts rewards what is popular, whose texts are long.
    """
    table = store.table("items", ["title", "category_path"])
    numbers: dict[str, int] = {}
    rows = [
        sorted(numbers.setdefault(term, len(numbers) + 1) for term in sorted(terms_of(f"{title or ''} {path or ''}")))
        for title, path in zip(table["title"].to_pylist(), table["category_path"].to_pylist(), strict=True)
    ]
    out = np.zeros((len(rows) + 1, max(map(len, rows), default=0) or 1), dtype=np.int32)
    for item, row in enumerate(rows, 1):
        out[item, : len(row)] = row
    return out


def js_at(
    lists: Int[np.ndarray, "T K"], targets: Int[np.ndarray, " T"], terms: Int[np.ndarray, "I M"]
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """Mean Jaccard overlap of the target's terms with those of each item of its list: KARMA's JS@K (section 3.1).

    Deviates: the paper does not say which mean; this is over the items of the list, empty places counted 0.

    Returns: with the target where the list holds it, and over the others alone, empty places left out: with it the
        measure holds a hit, worth 1 / K, beside any meaning.
    """
    count = (terms > 0).sum(1)
    overlap = np.zeros(lists.shape)
    for start in range(0, len(lists), 64):
        rows = slice(start, start + 64)
        own = terms[targets[rows]]
        other = terms[lists[rows]]
        common = np.zeros(other.shape[:2], np.int64)
        for term in own.T:  # one after the other: the longest title's square would not fit
            common += ((other == term[:, None, None]) & (term > 0)[:, None, None]).sum(2)
        union = count[targets[rows]][:, None] + count[lists[rows]] - common
        overlap[rows] = np.where(lists[rows] > 0, common / np.maximum(union, 1), 0.0)
    hit = lists == targets[:, None]
    others = np.maximum((lists > 0).sum(1) - hit.sum(1), 1)
    return overlap.mean(1), (overlap * ~hit).sum(1) / others


def shown_gauc(model: Any, store: Store, split: Split, window: str, *, max_len: int, requests: int) -> GroupAUC:
    """GAUC by request of a model of vectors on what was shown: h . e_i, clicked or not (KARMA's gAUC).

    Args:
        requests: at most so many of the window's requests with both, drawn at random, always the same.
    """
    shown = split.requests(store, window)
    first, stop = store.request_indptr[shown - 1], store.request_indptr[shown]
    clicks = np.concatenate([[0], np.cumsum(store.impression_label[:] > 0)])
    clicked = clicks[stop] - clicks[first]
    both = np.flatnonzero((clicked > 0) & (clicked < stop - first))
    if len(both) > requests:
        both = np.sort(np.random.default_rng(0).choice(both, requests, replace=False))
    shown, first, stop = shown[both], first[both], stop[both]
    if not len(shown):
        return gauc(np.zeros(0), np.zeros(0), shown)
    scores, labels, groups = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    with judging(model):
        vectors = model.item_vectors()
        for start in range(0, len(shown), 256):
            rows = slice(start, start + 256)
            asked = texts_of(store, store.request_query[shown[rows]]) if store.num_queries else None
            users = store.request_user[shown[rows]].astype(np.int64)
            history = requests_before_times(store, users, store.request_ts_ms[shown[rows]], max_len, asked)
            found = model.user_vectors(history.to(vectors.device))
            length = (stop - first)[rows]
            row = np.repeat(np.arange(len(length)), length)
            place = first[rows][row] + np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
            items = torch.from_numpy(store.impression_item[place].astype(np.int64)).to(vectors.device)
            products = (found[torch.from_numpy(row).to(vectors.device)] * vectors[items]).sum(1)
            scores.append(products.cpu().numpy())
            labels.append(store.impression_label[place] > 0)
            groups.append(shown[rows][row])
    return gauc(np.concatenate(labels), np.concatenate(scores), np.concatenate(groups))
