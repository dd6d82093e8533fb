"""How fast KARMA trains: beside the plain way, and by the number of layers.

The plain way: every position's item is read anew by all of the encoder's layers, histories and Task 1 are passes of
their own, logits of the whole vocabulary at every position, float32. Ours: distinct items once, the states of frozen
layers from disk, one pass for both, logits of labelled positions and of the catalogue's words, bfloat16 where the
processor has it. All learn the same weights from the same batches with a language model as item encoder; the losses
stand beside the speed. The curves of ours in both precisions are compared over more steps.

By layers: a step of the recipes, whose item encoder is a projection of frozen vectors.

A process each, one after the other; what is finished is not run again.

    python -m benchmarks.karma --store stores/ml-1m-liked
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.command import argument_parser
from benchmarks.memory import peak_gb
from benchmarks.written import is_there, write
from torch import Tensor, nn

from penchant.data.batch import SequenceBatch, SequenceBatches, SequenceDataConfig
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.encoders.backbone import load_backbone
from penchant.models import has_bfloat16, sizes_of
from penchant.papers.karma.items import ItemEncoder, TextReader
from penchant.papers.karma.language import Language
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.papers.karma.objective import KarmaObjective, KarmaObjectiveConfig
from penchant.recipes.karma.build import Beginning, build_karma, read_texts
from penchant.training.optim import OptimConfig, build_optimizers, set_rate

SPLIT = "temporal-successive"
TARGETS = 2048
"""Of a batch beside the plain way, at histories of up to 50."""
OPTIM = OptimConfig(lr=1e-3)
RAMP = 20
"""Steps over which the learning rate rises, as in training: Adam's first steps are all of one size."""
CURVE = 30
"""Steps after which curves are compared."""
FEW = 2
"""Timed steps of every other row, after one that is not."""


def main() -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("--store", type=Path, default=Path("stores/ml-1m-liked"))
    parser.add_argument(
        "--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measure(arguments.rows[0], arguments.store, arguments.threads)))
        return
    store = Store(arguments.store)
    for name in arguments.rows:
        if is_there(arguments.results, table_of(name), name, store, SPLIT):
            print(f"{name}: finished before")
            continue
        command = [sys.executable, "-m", "benchmarks.karma", "--alone", "--rows", name]
        command += ["--store", str(arguments.store), "--threads", str(arguments.threads)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        said = json.loads(done.stdout.splitlines()[-1])
        print(name, said["metrics"], flush=True)
        write(arguments.results, table_of(name), name, store, SPLIT, **said)


def _beside(layers: int) -> KarmaConfig:
    """For the plain way and ours: a language model reads the items, its last layer learns."""
    return KarmaConfig(layers=layers, items="text", item_layers=layers, item_tune="top", item_top=1)


def _rows() -> dict[str, tuple[KarmaConfig, KarmaObjectiveConfig]]:
    told, action = (
        KarmaObjectiveConfig(act="pairwise", generate=0.1, reconstruct=0.1),
        KarmaObjectiveConfig(act="pairwise"),
    )
    rows = {f"{way}-{n}-layers": (_beside(n), told) for n in (4, 8) for way in ("plain", "ours-float32", "ours")}
    rows |= {f"curve-{way}": rows[f"{way}-4-layers"] for way in ("ours-float32", "ours")}
    for layers in (2, 4, 8, None):
        name = "30-layers-lora" if layers is None else f"{layers}-layers"
        config = KarmaConfig(layers=layers, tune="lora" if layers is None else "full")
        rows |= {f"{name}-action": (config, action), f"{name}-decoded": (config, told)}
    return rows | {"8-layers-decoded-recomputed": rows["8-layers-decoded"]}


ROWS = _rows()


def table_of(row: str) -> str:
    """karma: beside the plain way; karma-curve: losses over more steps; karma-layers: by layers."""
    if row.startswith("curve"):
        return "karma-curve"
    return "karma" if row.startswith(("plain", "ours")) else "karma-layers"


def measure(row: str, path: Path, threads: int) -> dict[str, Any]:
    """Speed, memory and losses of a row; the first step is not timed."""
    torch.set_num_threads(threads)
    config, goals = ROWS[row]
    store = Store(path)
    split = load_split(store, SPLIT)
    backbone = load_backbone("smollm2", num_layers=config.layers, device="cpu")
    texts = read_texts(store, backbone.tokenizer, goals.max_words)
    torch.manual_seed(0)
    model = build_karma(config, Beginning(backbone, f"untouched-{config.layers}"), store, sizes_of(store))
    counts = torch.from_numpy(split.item_counts(store))
    language = Language.of(backbone.model, texts.vocabulary, config.pretrained_rate) if goals.tells else None
    ours = KarmaObjective(goals, texts.words, counts / counts.sum(), language)
    plain, beside = row.startswith("plain"), table_of(row) != "karma-layers"
    half = not plain and "float32" not in row and has_bfloat16(torch.device("cpu"))
    objective: nn.Module = Plain(ours, backbone) if plain else ours
    if "recomputed" in row:
        model.recompute()
    batches = SequenceBatches(store, split, SequenceDataConfig(batch_targets=TARGETS if beside else 1024), 0)
    optimizers = build_optimizers(nn.ModuleDict({"model": model, "objective": objective}), OPTIM)
    steps = CURVE if table_of(row) == "karma-curve" else FEW + 1
    losses: list[float] = []
    sequences = targets = 0
    wall, cpu = time.perf_counter(), time.process_time()
    for step in range(steps):
        if step == 1:
            wall, cpu, sequences, targets = time.perf_counter(), time.process_time(), 0, 0
        batch = batches.batch(step)
        set_rate(optimizers, min(1.0, (step + 1) / RAMP), OPTIM)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = torch.stack(list(objective(model, batch).values())).sum()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        sequences += len(batch.history)
        targets += batch.num_targets
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    learn = [p.numel() for part in (model, objective) for p in part.parameters() if p.requires_grad]
    metrics = {
        "Sequences per CPU second": sequences / cpu,
        "Targets per CPU second": targets / cpu,
        "CPU seconds a step": cpu / (steps - 1),
        "Peak memory (GB)": peak_gb(),
        "Parameters that learn (millions)": sum(learn) / 1e6,
        **{f"Loss at step {n}": losses[n - 1] for n in (1, FEW + 1)},
    }
    if steps == CURVE:
        metrics |= {f"Loss at steps {n - 9}-{n}": sum(losses[n - 10 : n]) / 10 for n in range(10, CURVE + 1, 10)}
    return {
        "metrics": metrics,
        "config": {"row": row, "bfloat16": half, "threads": threads, **asdict(replace(config, architecture=""))},
        "steps": steps - 1,
        "wall": wall,
        "cpu": cpu,
    }


class Plain(nn.Module):
    """The same losses as a first version would compute them."""

    tokens: Tensor
    whole: Tensor

    def __init__(self, ours: KarmaObjective, backbone: Any) -> None:
        super().__init__()
        self.ours = ours
        vocabulary = ours.language.vocabulary if ours.language else None
        assert vocabulary is not None
        self.register_buffer("tokens", torch.from_numpy(vocabulary.tokens), persistent=False)
        self.register_buffer("whole", backbone.model.get_input_embeddings().weight.detach().clone(), persistent=False)
        self.below, self.lower = backbone.model.model, len(backbone.model.model.layers) - 1

    def forward(self, model: Karma, batch: SequenceBatch) -> dict[str, Tensor]:
        ours, mask = self.ours, batch.mask
        read, targets = self._tokens(model, batch.history), self._tokens(model, batch.targets)
        lengths = mask.sum(1)
        words = ours.words[batch.targets.gather(1, (lengths - 1)[:, None])[:, 0]]
        states = model.read(read)
        items, right = torch.unique(batch.targets[mask], return_inverse=True)
        first = torch.zeros(len(items), dtype=torch.int64).scatter(0, right, torch.arange(len(right)))
        act = ours._act(model, states[mask], targets[mask][first], items, right, right[:, None][:, :0])
        h = states[torch.arange(len(states)), lengths - 1]
        return {
            "act": act,
            "generate": ours.config.generate * self._generate(model, read, lengths, words),
            "reconstruct": ours.config.reconstruct * self._nll(ours.told_from(model, h, words), words),
        }

    def _generate(self, model: Karma, read: Tensor, lengths: Tensor, words: Tensor) -> Tensor:
        """Task 1 in a pass of its own, with logits at every position of it."""
        before, told = self.ours._told_after(model, read, lengths, words)
        labels = torch.cat([words.new_full(before.shape[:2], -1), words], 1)
        return self._nll(torch.cat([before, told], 1), labels)

    def _tokens(self, model: Karma, items: Tensor) -> Tensor:
        """Every position anew, through all layers, padded to full length."""
        assert isinstance(model.items, ItemEncoder)
        trunk = model.items.trunk
        assert isinstance(trunk, TextReader)
        words = trunk.words[items.flatten()].long()
        real = words >= 0
        norm, layers = self.below.norm, self.below.layers
        self.below.norm, self.below.layers = nn.Identity(), layers[: self.lower]
        with torch.no_grad():
            below = self.below(input_ids=self.tokens[words.clamp(min=0)], attention_mask=real.long(), use_cache=False)
        self.below.norm, self.below.layers = norm, layers
        top = trunk.body(inputs_embeds=below.last_hidden_state, attention_mask=real.long(), use_cache=False)
        kept = real[..., None].float()
        vectors = (top.last_hidden_state * kept).sum(1) / kept.sum(1).clamp(min=1)
        return model.items.of_vectors(vectors).view(*items.shape, -1)

    def _nll(self, states: Tensor, words: Tensor) -> Tensor:
        """Logits of the whole vocabulary at every position; the loss is among the catalogue's words, as ours is."""
        assert self.ours.language is not None
        head = self.whole.index_copy(0, self.tokens, self.ours.language.words.weight)
        logits = (states @ head.T)[..., self.tokens]
        real = words >= 0
        return F.cross_entropy(logits[real], words[real])


if __name__ == "__main__":
    main()
