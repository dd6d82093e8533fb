"""How the parts of a finished KARMA run attend: trained, as they began, and random, all given the same input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penchant.data.history import requests_before_events
from penchant.data.store import Store
from penchant.evaluation.diagnostics.attention import SHORTEST, Reading, read_maps
from penchant.funnel.rank import judging
from penchant.models import load_model, sizes_of
from penchant.papers.karma import attention
from penchant.papers.karma.items import TextReader
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.recipes.karma.build import build_karma, item_texts
from penchant.recipes.karma.run import LEARNER
from penchant.recipes.karma.stages import ContinuationConfig, begin
from penchant.training.loop import TrainConfig
from penchant.training.optim import OptimConfig

SAMPLE = 64
"""Histories, and texts, that attention is read over."""


def attention_readings(
    folder: Path,
    config: dict[str, Any],
    store: Store,
    events: np.ndarray,
    *,
    layers: Sequence[int],
    heads: Sequence[int],
    seed: int,
) -> tuple[Reading, ...]:
    """Of the decoder over histories, and of the item encoder over texts where the run has one.

    "Untouched" is what the run began with, before warm-up and histories: pretrained weights, cut and continued on the
    catalogue's texts as the run had them. The continuation comes from the cache; on a machine without it, it is made
    again. The decoder reads the trained e_i with all weights, so that only the decoder differs.

    Args:
        folder: of the run.
        config: of the run, as `run.json` says.
        events: judged targets, whose histories are read.
        layers, heads: that are drawn, from 1.

    Raises:
        ModelUnavailableError: the backbone is not on this machine.
        StoreError: the Store lacks what the item encoder reads.
        RunError: the run's folder lacks its learner.
    """
    trained: Karma = load_model(folder / LEARNER)
    settings = KarmaConfig(**config["model"])
    optim = {**config["train"]["optim"], "betas": tuple(config["train"]["optim"]["betas"])}
    train = TrainConfig(**{**config["train"], "optim": OptimConfig(**optim)})
    began = begin(settings, ContinuationConfig(**config["continuation"]), store, train)
    with torch.random.fork_rng(devices=[]):
        untouched = build_karma(settings, began, store, sizes_of(store)).eval()
    reader, before = attention.text_reader(trained), attention.text_reader(untouched)
    if reader is not None and before is not None:
        reader.below = before.below  # what its frozen layers made of the texts is not saved with the run
    out = _of_histories(trained, untouched, store, events, layers, heads, seed)
    if reader is not None and before is not None:
        out += _of_texts(trained, reader, before, store, began.backbone.tokenizer, layers, heads, seed)
    return tuple(out)


def _of_histories(
    trained: Karma,
    untouched: Karma,
    store: Store,
    events: np.ndarray,
    layers: Sequence[int],
    heads: Sequence[int],
    seed: int,
) -> list[Reading]:
    lengths = events - store.user_indptr[np.searchsorted(store.user_indptr, events, side="right") - 1]
    lengths = np.minimum(lengths, trained.config.max_len)
    long = events[lengths >= SHORTEST]
    if not len(long):
        return []
    some = np.random.default_rng(seed).permutation(long)[:SAMPLE]
    with judging(trained):
        inputs, read = attention.histories_read(trained, requests_before_events(store, some, trained.config.max_len))
    architecture = trained.config.architecture
    bodies = {
        "trained": trained.body,
        "untouched": untouched.body,
        "random": attention.random_body(architecture, trained.body, seed),
    }
    order, labels = _longest_first(read), [str(place + 1) for place in range(max(read))]
    return _readings("decoder", bodies, inputs, read, order, labels, layers, heads)


def _of_texts(
    trained: Karma,
    reader: TextReader,
    before: TextReader,
    store: Store,
    tokenizer: Any,
    layers: Sequence[int],
    heads: Sequence[int],
    seed: int,
) -> list[Reading]:
    told = np.flatnonzero(reader.lengths(torch.arange(trained.num_items + 1)).numpy() >= SHORTEST)
    if not len(told):
        return []
    items = np.random.default_rng(seed).permutation(told)[:SAMPLE]
    inputs, read = attention.texts_read(reader, torch.from_numpy(items))
    architecture = trained.config.item_architecture
    bodies = {
        "trained": reader.body,
        "untouched": before.body,
        "random": attention.random_body(architecture, reader.body, seed),
    }
    order = _longest_first(read)
    labels = _pieces(tokenizer, item_texts(store)[int(items[order[0]]) - 1], read[order[0]])
    return _readings("item encoder", bodies, inputs, read, order, labels, layers, heads, before.num_below)


def _readings(
    name: str,
    bodies: dict[str, Any],
    inputs: dict[str, Any],
    lengths: list[int],
    order: np.ndarray,
    labels: list[str],
    layers: Sequence[int],
    heads: Sequence[int],
    below: int = 0,
) -> list[Reading]:
    out = []
    for weights, body in bodies.items():
        maps = [layer[order] for layer in attention.attention_of(body.eval(), inputs)]
        drawn = layers or sorted({below + 1, below + len(maps)})
        out.append(
            read_maps(
                name,
                weights,
                maps,
                [lengths[i] for i in order],
                causal=attention.is_causal(maps),
                layers=drawn,
                heads=heads,
                labels=labels,
                below=below,
            )
        )
    return out


def _longest_first(lengths: list[int]) -> np.ndarray:
    """The order in which the first is the example."""
    return np.argsort(-np.asarray(lengths), kind="stable")


def _pieces(tokenizer: Any, text: str, count: int) -> list[str]:
    """The first tokens of a text as they read; numbers where another tokenizer made them."""
    told = tokenizer(text, add_special_tokens=False)["input_ids"][:count]
    pieces = [tokenizer.decode([token]).strip() for token in told]
    return pieces + [str(place + 1) for place in range(len(pieces), count)]
