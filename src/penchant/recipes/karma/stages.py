"""What comes before KARMA sees any behaviour: a backbone continued on the catalogue, a warm-up on the items' texts.

Both are made once and kept in the cache under a hash of all they depend on, so that every row of a table begins with
the same ones.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penchant.data.output import whole
from penchant.data.store import Store, fingerprint
from penchant.encoders.backbone import Backbone, load_backbone
from penchant.encoders.pretrained import model_fingerprint
from penchant.models import has_bfloat16, pick_device
from penchant.papers.karma.items import ItemEncoder
from penchant.papers.karma.language import Continuation, Language, Texts, WordBatches, perplexity
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.papers.karma.objective import ItemBatch, KarmaObjective, WarmUp
from penchant.recipes.karma.build import Beginning, read_texts
from penchant.training.loop import TrainConfig, fit
from penchant.training.once import cached, made_once

FORMAT = 1
"""Part of every key of the cache: to be raised when the same settings come to something else."""
STATE, WORK = "state.safetensors", "work"
"""In a stage's folder of the cache: what it came to, and where it trains until then."""


@dataclass(frozen=True, kw_only=True)
class ContinuationConfig:
    """Next words of the catalogue's texts, for a backbone that was cut to its first layers: without, it is no language
    model any more. A whole one is left as it is."""

    steps: int = 400
    """0 = none."""
    rows: int = 16
    length: int = 128
    """Words in a row."""
    lr: float = 1e-3


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


def begin(config: KarmaConfig, continuation: ContinuationConfig, store: Store, train: TrainConfig) -> Beginning:
    """The decoder's backbone. One that is cut is continued on the texts of the whole catalogue but for one item in
    twenty, on which its perplexity is taken.

    Raises:
        ModelUnavailableError: it cannot be had.
        StoreError: it is to be continued, and no item has a text.
    """
    backbone = load_backbone(config.backbone, num_layers=config.layers, device="cpu")
    key = model_fingerprint(backbone.model, {})
    if config.layers is None or not continuation.steps:
        return Beginning(backbone, key)
    texts = read_texts(store, backbone.tokenizer, 1)
    told = np.flatnonzero([len(text) > 0 for text in texts.whole])
    held = np.zeros(len(texts.whole), dtype=bool)
    held[np.random.default_rng(0).permutation(told)[::20]] = True
    learn, left = (
        WordBatches(
            [text for text, out in zip(texts.whole, held, strict=True) if out == chosen],
            texts.vocabulary,
            continuation.length,
            continuation.rows,
            0,
        )
        for chosen in (False, True)
    )
    steps = _of_stage(train, continuation.steps / learn.steps_per_epoch, continuation.lr)

    def make(folder: Path) -> dict[str, Tensor]:
        language, cut = Language.of(backbone.model, texts.vocabulary), Cut(backbone)
        before = perplexity(cut.eval(), language, left)
        fit(cut, Continuation(language), learn, steps, folder, title="continuing the backbone")
        cut.cpu()
        language.cpu()
        after = perplexity(cut, language, left)
        whole = load_backbone(config.backbone, device="cpu")
        best = perplexity(Cut(whole).eval(), Language.of(whole.model, texts.vocabulary), left)
        return {
            **{f"body.{k}": v for k, v in cut.body.state_dict().items() if "embed_tokens" not in k},
            **{f"language.{k}": v for k, v in language.state_dict().items()},
            "perplexity": torch.tensor([best, before, after], dtype=torch.float64),
        }

    depends = [key, store.fingerprint, _words_of(texts), asdict(continuation), _taught_by(steps)]
    state = shared("continued", depends, make)
    told = {k.removeprefix("body."): v for k, v in state.items() if k.startswith("body.")}
    backbone.model.model.load_state_dict(told, strict=False)
    tokens = torch.from_numpy(texts.vocabulary.tokens)
    with torch.no_grad():
        backbone.model.get_input_embeddings().weight[tokens] = state["language.words.weight"]
        if "language.own_head" in state:
            backbone.model.get_output_embeddings().weight[tokens] = state["language.own_head"]
    best, before, after = state["perplexity"].tolist()
    said = (
        f"Perplexity on texts of items held out, among the {len(tokens):,} words of the catalogue: the whole "
        f"{config.backbone} {best:,.1f}, its first {config.layers} layers {before:,.0f}, these continued {after:,.1f}."
    )
    return Beginning(backbone, fingerprint(depends), said)


class Cut(nn.Module):
    """A backbone's body, as the training loop wants a model."""

    kind = "cut"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.config = self.sizes = _Named(backbone.name)
        self.body = backbone.model.model.requires_grad_(True)


@dataclass(frozen=True)
class _Named:
    name: str


def warm_up(
    model: Karma,
    objective: KarmaObjective,
    config: WarmUpConfig,
    train: TrainConfig,
    texts: Texts,
    beginning: WarmBegin,
) -> None:
    """Give a run's model and objective what the first stage taught; made now if it was not made before.

    It has a model of its own, begun with seed 0 and alike in all that it does not teach, so that no run decides what
    the others begin with. Only items of the train window take part: those that are new at the test stay so.
    """
    usual = KarmaConfig()
    plain = replace(beginning.config, width=usual.width, scaled=usual.scaled, max_len=usual.max_len, query="none")
    told = (texts.words >= 0).any(1).numpy() & (beginning.counts > 0)
    batches = ItemBatches(np.flatnonzero(told), config.items, 0)
    halves = {"projector": config.steps // 2, "full": config.steps - config.steps // 2}
    parts = {"projector": config.steps} if config.part == "projector" else halves

    def make(folder: Path) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pupil, words = beginning.build(plain)
            for part, steps in parts.items():
                if steps:
                    with learning(pupil, words, part):
                        settings = _of_stage(train, steps / batches.steps_per_epoch, config.lr)
                        fit(pupil, WarmUp(words), batches, settings, folder / part, title=f"warm-up, {part}")
        of_model = {f"model.{k}": v for k, v in pupil.state_dict().items() if k.startswith(("body.", "items."))}
        return {**of_model, **{f"objective.{k}": v for k, v in words.state_dict().items()}}

    depends = [
        asdict(plain),
        asdict(config),
        _taught_by(_of_stage(train, 1.0, config.lr)),
        _words_of(texts),
        texts.max_words,
        np.flatnonzero(told).tolist(),
        beginning.key,
        _content_of(model),
    ]
    state = shared("warm-up", depends, make)
    for name, part in (("model", model), ("objective", objective)):
        known = part.state_dict()
        taught = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        part.load_state_dict({k: v for k, v in taught.items() if k in known}, strict=False)


@dataclass(frozen=True)
class WarmBegin:
    """What the warm-up begins with.

    Attributes:
        counts: of each item in the train window.
        key: of the backbone's weights.
        build: a model of a configuration and an objective that tells texts, both fresh.
    """

    config: KarmaConfig
    counts: np.ndarray
    key: str
    build: Callable[[KarmaConfig], tuple[Karma, KarmaObjective]]


def _content_of(model: Karma) -> str:
    """Hash of what a fresh item encoder reads by: vectors or words, pretrained weights; not of what is new in it."""
    assert isinstance(model.items, ItemEncoder)
    trunk = model.items.trunk
    new = frozenset(k for k in trunk.state_dict() if ".parametrizations.weight.0." in k)
    below = getattr(trunk, "below", None)
    states = "" if below is None else hashlib.sha256(below.tobytes()).hexdigest()
    return model_fingerprint(trunk, {"below": states}, without=new)


def _words_of(texts: Texts) -> str:
    """Hash of what the tokenizer made of the texts."""
    return fingerprint([texts.vocabulary.tokens.tolist(), [text.tolist() for text in texts.whole]])


def _of_stage(train: TrainConfig, epochs: float, lr: float) -> TrainConfig:
    """The run's settings as a stage before it has them: seed 0, its own length and rate, no validation."""
    return TrainConfig(
        epochs=epochs,
        optim=replace(train.optim, lr=lr),
        precision=train.precision,
        device=train.device,
        checkpoint_every_s=20.0,
        tensorboard=False,
    )


def _taught_by(stage: TrainConfig) -> dict[str, Any]:
    """What of a stage's settings decides what it comes to."""
    device = pick_device(stage.device)
    half = stage.precision == "bfloat16" or (stage.precision == "auto" and has_bfloat16(device))
    return {"optim": asdict(stage.optim), "bfloat16": half, "device": str(device)}


def shared(stage: str, depends: Any, make: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What a stage makes; from the cache if it was made before.

    Args:
        depends: all that it depends on, as plain values.
        make: makes it, in a folder whose checkpoints it may go on from.

    Raises:
        RunError: another process is making it.
    """

    def read(folder: Path) -> dict[str, Tensor] | None:
        if not (folder / STATE).is_file():
            return None
        shutil.rmtree(folder / WORK, ignore_errors=True)  # a kill may have come before its process had
        return load_file(folder / STATE)

    def made(folder: Path) -> dict[str, Tensor]:
        state = {k: v.detach().cpu().contiguous().clone() for k, v in make(folder / WORK).items()}
        with whole(folder / STATE) as temporary:
            save_file(state, temporary)
        shutil.rmtree(folder / WORK, ignore_errors=True)
        return state

    return made_once(cached(f"karma/{stage}", [FORMAT, depends]), made, read)


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


@contextmanager
def learning(model: Karma, objective: KarmaObjective, part: str) -> Iterator[None]:
    """Of both, only what leads from content into the decoder learns, if `part` is "projector"."""
    learners: list[nn.Parameter] = [p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad]
    new = [p for name, p in model.items.named_parameters() if not name.startswith("trunk.")]
    kept = {id(p) for p in (*new, objective.separator)}
    if part == "projector":
        for p in learners:
            p.requires_grad_(id(p) in kept)
    try:
        yield
    finally:
        for p in learners:
            p.requires_grad_(True)
