"""KARMA's run: a backbone continued on the catalogue's texts, a warm-up on items, then histories; and its recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tyro.conf import Fixed

from penchant.data.batch import SequenceBatches, SequenceDataConfig, check_lengths
from penchant.data.split import Split
from penchant.data.store import Store, write_text
from penchant.errors import ConfigError, StoreError
from penchant.evaluation.diagnostics.vectors import item_spread, with_items
from penchant.models import READER, Sizes, save_model
from penchant.papers.karma.generators import VisualTargets
from penchant.papers.karma.language import Language, Texts
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.papers.karma.objective import KarmaObjective, KarmaObjectiveConfig
from penchant.papers.karma.reader import InterestReader
from penchant.papers.karma.within import Within
from penchant.recipes.karma.build import Beginning, build_karma, read_texts
from penchant.recipes.karma.stages import ContinuationConfig, WarmBegin, WarmUpConfig, begin, warm_up
from penchant.training.loop import FitResult, TrainConfig, fit
from penchant.training.optim import OptimConfig

LEARNER = "learner"
"""Folder of a run with what learned: the model with its item encoder. The run's own model is the exported one."""

SAID = "language.txt"
"""File of a run: what its backbone is worth as a language model, and what its texts and pictures lack."""


@dataclass(frozen=True, kw_only=True)
class KarmaRun:
    """KARMA, trained on histories after a warm-up on texts."""

    kind: Fixed[str] = "karma"
    model: KarmaConfig = field(default_factory=KarmaConfig)
    data: SequenceDataConfig = field(default_factory=lambda: SequenceDataConfig(batch_targets=1024))
    objective: KarmaObjectiveConfig = field(default_factory=KarmaObjectiveConfig)
    continuation: ContinuationConfig = field(default_factory=ContinuationConfig)
    warm_up: WarmUpConfig = field(default_factory=WarmUpConfig)
    recompute: bool = False
    """Activation checkpointing of the decoder: less memory, about a third more time, the same result."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=3, optim=OptimConfig(lr=1e-3, final_share=0.1), precision="auto")
    )


def karma() -> KarmaRun:
    """KARMA's action alone on the first layers of a language model, after its warm-up. Minutes; needs `make models`."""
    return KarmaRun()


def karma_decoded() -> KarmaRun:
    """KARMA kept decodable: the next item's text is told from the history and from h_t. Clicks are learned by a
    sampled softmax; the rows of its Table 1 are `penchant reproduce karma-table1`."""
    return KarmaRun(objective=KarmaObjectiveConfig(generate=0.1, reconstruct=0.1))


def karma_search() -> KarmaRun:
    """KARMA for personalized search: the query is the last token, which alone answers a user without history."""
    return replace(
        KarmaRun(), model=KarmaConfig(query="token"), data=SequenceDataConfig(batch_targets=1024, queries=True)
    )


def train_karma(
    run: KarmaRun, store: Store, split: Split, out: Path, sizes: Sizes, validate: Callable[[Any], dict[str, float]]
) -> FitResult:
    """Carry out the run. What no behaviour enters (continuation, warm-up) is made once for all runs, in the cache.

    `out` gets the exported model, `out/learner` the one that learned, with its item encoder, and `out/reader` what
    tells h_t in words, if that was learned: of the same validation as the model's best weights.

    Args:
        validate: metrics of the model on the validation window.

    Raises:
        ConfigError: histories and model differ in length.
        StoreError: the Store lacks texts, or vectors, that the run needs.
        ModelUnavailableError: a backbone cannot be had.
    """
    check_karma(run, store)
    warms = run.warm_up.part != "none" and run.warm_up.steps > 0
    began = begin(run.model, run.continuation, store, run.train)
    tokenizer = began.backbone.tokenizer
    texts = read_texts(store, tokenizer, run.objective.max_words) if run.objective.tells or warms else None
    texts = texts.shuffled() if texts and run.model.shuffled else texts
    torch.manual_seed(run.train.seed)
    model = build_karma(run.model, began, store, sizes)
    objective = build_objective(run.objective, model, began, store, split, texts if run.objective.tells else None)
    if warms:
        assert texts is not None
        alone = KarmaObjectiveConfig(max_words=run.objective.max_words)

        def fresh(config: KarmaConfig) -> tuple[Karma, KarmaObjective]:
            pupil = build_karma(config, began, store, sizes)
            return pupil, build_objective(alone, pupil, began, store, split, texts)

        beginning = WarmBegin(run.model, split.item_counts(store), began.key, fresh)
        warm_up(model, objective, run.warm_up, run.train, texts, beginning)
    if run.recompute:
        model.recompute()
    said = [began.said, *(_cut_texts(texts) if texts else ()), *(_without_picture(objective.pictures))]
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / SAID, "".join(f"{line}\n" for line in said if line))
    batches = SequenceBatches(store, split, run.data, run.train.seed)
    can_choose = len(split.targets("valid")) > 0

    def watched() -> dict[str, float]:
        """What chooses; and whether e_i collapses, which decoding reads and what searches is projected from."""
        within = item_spread(with_items(Within(model)).made)
        return validate(model) | {f"{name} within": value for name, value in within.items()}

    result = fit(model, objective, batches, run.train, out / LEARNER, watched if can_choose else None, title="karma")
    if run.objective.reconstruct:
        InterestReader.of(objective).save(out / READER, tokenizer)
    save_model(model.exported(), out)
    return result


def said_by(run: Path) -> tuple[str, ...]:
    """What a run's folder says of its backbone as a language model, and of what was cut: notes of its row."""
    file = run / SAID
    return tuple(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else ()


def _cut_texts(texts: Texts) -> tuple[str, ...]:
    told = sum(len(text) > 0 for text in texts.whole)
    if not texts.cut:
        return ()
    return (f"{texts.cut:,} of {told:,} texts are longer than the {texts.max_words} tokens that are decoded of each.",)


def _without_picture(pictures: VisualTargets | None) -> tuple[str, ...]:
    if pictures is None or not pictures.missing:
        return ()
    return (f"{pictures.missing:,} of {len(pictures.present) - 1:,} items have no picture: not in that loss.",)


def check_karma(run: KarmaRun, store: Store) -> None:
    """Before minutes of work: the settings go together, and the Store has what they read.

    Raises:
        ConfigError: histories and model differ in length, or one of them reads queries and the other none.
        StoreError: the Store lacks queries, or vectors, that the run needs.
    """
    check_lengths(run.data.max_len, run.model.max_len)
    if run.data.queries != (run.model.query != "none"):
        what = f"data.queries is {run.data.queries}, model.query {run.model.query!r}"
        raise ConfigError(what, fix="Set data.queries to True for a model of queries, and only then.")
    if run.model.items == "table":
        raise ConfigError("model.items is 'table', which cannot learn", fix="Set it to vectors, text or pictures.")
    if run.data.queries and not store.num_queries:
        fix = "Prepare the log with its queries (field `query`), or train karma."
        raise StoreError("nobody has typed a query to learn from", where=store.path, fix=fix)
    if run.model.items == "vectors":
        store.vectors("text")
    if run.objective.picture:
        store.vectors("image")


def build_objective(
    config: KarmaObjectiveConfig, model: Karma, began: Beginning, store: Store, split: Split, texts: Texts | None
) -> KarmaObjective:
    """The losses; with a language if there are texts to be decoded.

    Raises:
        StoreError: pictures are to be modelled, and the Store has no image vectors.
    """
    counts = split.item_counts(store)
    nothing = torch.full((store.num_items + 1, 1), -1)
    rate = model.config.pretrained_rate
    language = None if texts is None else Language.of(began.backbone.model, texts.vocabulary, rate)
    return KarmaObjective(
        config,
        nothing if texts is None else texts.words,
        torch.from_numpy(counts / max(counts.sum(), 1)),
        language,
        VisualTargets(store.vectors("image"), model.config.shuffled) if config.picture else None,
        width=model.body.config.hidden_size,
    )


RETRIEVAL = (karma, karma_decoded, karma_search)
