"""KARMA's run: a language model's layers, a warm-up on item texts, then histories; and its recipes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from tyro.conf import Fixed

from penchant.data.batch import SequenceBatches, SequenceDataConfig
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.encoders.backbone import Backbone, load_backbone
from penchant.encoders.text import item_text
from penchant.errors import ConfigError, StoreError
from penchant.models import Sizes
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.papers.karma.objective import ItemBatch, KarmaObjective, KarmaObjectiveConfig, Texts, WarmUp
from penchant.training.loop import FitResult, TrainConfig, fit
from penchant.training.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class WarmUpConfig:
    """§2.5: item texts from isolated item vectors, before any history.

    The paper says neither what learns nor how long."""

    part: Literal["none", "projector", "full"] = "full"
    """projector: what leads from content to the decoder, for all steps. full: that for the first half, then all."""
    steps: int = 400
    items: int = 64
    """Items in a step."""
    lr: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class KarmaRun:
    """KARMA, trained on histories after a warm-up on texts."""

    kind: Fixed[str] = "karma"
    model: KarmaConfig = field(default_factory=KarmaConfig)
    data: SequenceDataConfig = field(default_factory=lambda: SequenceDataConfig(batch_targets=1024))
    objective: KarmaObjectiveConfig = field(default_factory=KarmaObjectiveConfig)
    warm_up: WarmUpConfig = field(default_factory=WarmUpConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=3, optim=OptimConfig(lr=1e-3)))


def karma() -> KarmaRun:
    """KARMA's action alone on the first layers of a language model, after its warm-up. Minutes; needs `make models`."""
    return KarmaRun()


def karma_decoded() -> KarmaRun:
    """The same kept decodable: the next item's text from the history and from h_t (rows 1 to 4 of its Table 1)."""
    return KarmaRun(objective=KarmaObjectiveConfig(generate=0.1, reconstruct=0.1))


def train_karma(
    run: KarmaRun, store: Store, split: Split, out: Path, sizes: Sizes, validate: Callable[[Any], dict[str, float]]
) -> FitResult:
    """Carry out the run; the warm-up has a folder of its own inside `out` and is not made twice.

    Args:
        validate: metrics of the model on the validation window.

    Raises:
        ConfigError: histories and model differ in length.
        StoreError: the Store has no text vectors, or no item has a text.
        ModelUnavailableError: the backbone cannot be had.
    """
    if run.data.max_len != run.model.max_len:
        what = f"data.max_len is {run.data.max_len}, model.max_len {run.model.max_len}"
        raise ConfigError(what, fix="Set both alike: a model is judged on histories as long as it was trained on.")
    warms = run.warm_up.part != "none" and run.warm_up.steps > 0
    backbone = load_backbone(run.model.backbone, num_layers=run.model.layers, device="cpu")
    torch.manual_seed(run.train.seed)
    model = build_karma(run.model, backbone, store, sizes)
    counts = split.item_counts(store)
    texts = read_texts(store, backbone, run.objective.max_words)
    words = backbone.model.get_input_embeddings().weight.detach()
    tied = backbone.model.config.tie_word_embeddings
    objective = KarmaObjective(
        run.objective,
        texts,
        words,
        words if tied else backbone.model.get_output_embeddings().weight.detach(),
        torch.from_numpy(counts / max(counts.sum(), 1)),
        rate=run.model.pretrained_rate,
        warms_up=warms,
    )
    if run.model.freeze_backbone:
        model.body.requires_grad_(False)
    if warms:
        warm_up(model, objective, run, counts, out / "warm-up")
    batches = SequenceBatches(store, split, run.data, run.train.seed)
    can_choose = len(split.targets("valid")) > 0
    return fit(
        model, objective, batches, run.train, out, (lambda: validate(model)) if can_choose else None, title="karma"
    )


def build_karma(config: KarmaConfig, backbone: Backbone, store: Store, sizes: Sizes) -> Karma:
    """KARMA over a Store's frozen text vectors, its decoder the backbone's layers with their weights.

    Raises:
        StoreError: the Store has no text vectors.
    """
    content = store.vectors("text")
    described = json.loads(backbone.model.config.to_json_string(use_diff=False))
    body = backbone.model.model
    config = replace(config, content_width=content.values.shape[1], architecture=json.dumps(described, sort_keys=True))
    model = Karma(config, sizes)
    embeddings = body.get_input_embeddings()
    named = {id(p) for p in embeddings.parameters()}
    model.body.load_state_dict({k: v for k, v in body.state_dict(keep_vars=True).items() if id(v) not in named})
    for parameter in model.body.parameters():
        parameter.lr_share = config.pretrained_rate  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        model.content.copy_(standardised(np.asarray(content.values, dtype=np.float32), content.present))
        # As long as a word's vector, which is what the decoder has read so far.
        model.norm.weight.fill_(float(embeddings.weight.pow(2).mean().sqrt()))
    return model


def standardised(vectors: np.ndarray, present: np.ndarray) -> torch.Tensor:
    """Mean 0 and variance 1 in each dimension over the items that have content; the others stay zero."""
    known = vectors[present]
    spread = known.std(0)
    out = np.zeros_like(vectors)
    out[present] = (known - known.mean(0)) / np.where(spread > 0, spread, 1)
    return torch.from_numpy(out)


def read_texts(store: Store, backbone: Backbone, max_words: int) -> Texts:
    """The items' texts (title, then further text) as the backbone's tokens, ended by its end token where they fit.

    Raises:
        StoreError: no item has a text.
    """
    table = store.table("items", ["title", "text"])
    texts = [item_text(*pair) for pair in zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)]
    if not any(texts):
        raise StoreError(
            "no item has a title or a text, which KARMA decodes", where=store.path, fix="Give a catalogue."
        )
    tokenizer = backbone.tokenizer
    end = tokenizer.eos_token_id
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    words = np.full((len(texts) + 1, max_words), -1, dtype=np.int64)
    for row, (text, said) in enumerate(zip(texts, ids, strict=True), 1):
        kept = [*said, end][:max_words] if text else []
        words[row, : len(kept)] = kept
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
    return Texts(torch.from_numpy(words), sum(len(said) + 1 > max_words for said in ids), begin)


class ItemBatches:
    """Items, each once an epoch, in random order: a pure function of the step."""

    def __init__(self, items: np.ndarray, size: int, seed: int) -> None:
        self.items, self.size, self.seed = items, size, seed
        self.steps_per_epoch = max(1, len(items) // size)

    def batch(self, step: int) -> ItemBatch:
        """The batch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.items)
        return ItemBatch(torch.from_numpy(order[place * self.size :][: self.size].astype(np.int64)))


def warm_up(model: Karma, objective: KarmaObjective, run: KarmaRun, counts: np.ndarray, out: Path) -> None:
    """The first stage. Only items of the train window: those that are new at the test must stay so."""
    told = (objective.texts >= 0).any(1).numpy() & (counts > 0)
    batches = ItemBatches(np.flatnonzero(told), run.warm_up.items, run.train.seed)
    stages = (
        {"projector": run.warm_up.steps}
        if run.warm_up.part == "projector"
        else {
            "projector": run.warm_up.steps // 2,
            "full": run.warm_up.steps - run.warm_up.steps // 2,
        }
    )
    for part, steps in stages.items():
        if steps:
            config = replace(
                run.train,
                epochs=steps / batches.steps_per_epoch,
                accumulate=1,
                optim=replace(run.train.optim, lr=run.warm_up.lr),
            )
            with learning(model, objective, part):
                fit(model, WarmUp(objective), batches, config, out / part, title=f"warm-up, {part}")


@contextmanager
def learning(model: Karma, objective: KarmaObjective, part: str) -> Iterator[None]:
    """Of both, only what leads from content into the decoder learns, if `part` is "projector"."""
    learners: list[nn.Parameter] = [p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad]
    new = [*model.skip.parameters(), *model.bend.parameters(), *model.norm.parameters(), objective.separator]
    kept = {id(p) for p in new}
    if part == "projector":
        for p in learners:
            p.requires_grad_(id(p) in kept)
    try:
        yield
    finally:
        for p in learners:
            p.requires_grad_(True)
