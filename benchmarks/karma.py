"""How fast KARMA trains beside the plain way, on the whole objective with a language model as item encoder.

The plain way: every position's item is read anew by all of the encoder's layers, padded to full length, logits of the
whole vocabulary at every position, float32. Ours: distinct items once, the states of frozen layers from disk, logits of
labelled positions and of the catalogue's words, length buckets, bfloat16 where the processor has it. Both learn the
same weights from the same batches; the losses of each step stand beside the speed. A process each, one after the other.

    python -m benchmarks.karma --store stores/ml-1m-liked --layers 4 8
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penchant.data.batch import SequenceBatch, SequenceBatches, SequenceDataConfig
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.encoders.backbone import load_backbone
from penchant.evaluation.results import Result, result_path, versions_here, write_result
from penchant.models import has_bfloat16
from penchant.papers.karma.items import ItemEncoder, TextReader
from penchant.papers.karma.language import Language
from penchant.papers.karma.model import Karma, KarmaConfig
from penchant.papers.karma.objective import KarmaObjective, KarmaObjectiveConfig
from penchant.recipes.karma_build import Beginning, build_karma, read_texts
from penchant.recipes.runs import sizes_of
from penchant.training.optim import OptimConfig, build_optimizers

SPLIT = "temporal-successive"
TARGETS = 1024
"""Of a batch, at histories of up to 32."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("stores/ml-1m-liked"))
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--steps", type=int, default=4, help="after one that is not counted")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--way", choices=("plain", "ours", "ours-float32"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        said = measure(arguments.way, arguments.layers[0], arguments.store, arguments.steps, arguments.threads)
        print(json.dumps(said))
        return
    for layers in arguments.layers:
        for way in ("plain", "ours-float32", "ours"):
            name = f"{way}-{layers}-layers"
            data = Store(arguments.store).name
            if result_path(arguments.results, "benchmarks", "karma", name, data, SPLIT, 0).is_file():
                print(f"{name}: finished before")
                continue
            command = [sys.executable, "-m", "benchmarks.karma", "--way", way, "--layers", str(layers)]
            command += ["--store", str(arguments.store), "--steps", str(arguments.steps)]
            done = subprocess.run([*command, "--threads", str(arguments.threads)], check=True, capture_output=True)
            said = json.loads(done.stdout.splitlines()[-1])
            print(name, said["metrics"])
            write(arguments.results, name, Store(arguments.store), said)


def measure(way: str, layers: int, path: Path, steps: int, threads: int) -> dict[str, Any]:
    """Speed, memory and losses of one way; the first step is not timed."""
    torch.set_num_threads(threads)
    store = Store(path)
    split = load_split(store, SPLIT)
    backbone = load_backbone("smollm2", num_layers=layers, device="cpu")
    texts = read_texts(store, backbone.tokenizer, 24)
    config = KarmaConfig(
        layers=layers, item_layers=layers, items="text", item_tune="top", item_top=1, max_len=32, width=128
    )
    goals = KarmaObjectiveConfig(act="pairwise", generate=0.1, reconstruct=0.1)
    torch.manual_seed(0)
    model = build_karma(config, Beginning(backbone, f"untouched-{layers}"), store, sizes_of(store))
    counts = torch.from_numpy(split.item_counts(store))
    language = Language.of(backbone.model, texts.vocabulary, config.pretrained_rate)
    ours = KarmaObjective(goals, texts.words, counts / counts.sum(), language)
    half = way == "ours" and has_bfloat16(torch.device("cpu"))
    objective: nn.Module = Plain(ours, backbone) if way == "plain" else ours
    data = SequenceDataConfig(max_len=32, batch_targets=TARGETS)
    batches = SequenceBatches(store, split, data, 0)
    optimizers = build_optimizers(nn.ModuleDict({"model": model, "objective": objective}), OptimConfig(lr=1e-4))
    losses: list[float] = []
    sequences = 0
    wall, cpu = time.perf_counter(), time.process_time()
    for step in range(steps + 1):
        if step == 1:
            wall, cpu, sequences = time.perf_counter(), time.process_time(), 0
        batch = batches.batch(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = torch.stack(list(objective(model, batch).values())).sum()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        sequences += len(batch.history)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "metrics": {
            "Sequences per CPU second": sequences / cpu,
            "Sequences per second": sequences / wall,
            "Peak memory (GB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            **{f"Loss at step {n}": loss for n, loss in enumerate(losses, 1)},
        },
        "config": {"way": way, "bfloat16": half, "threads": threads, **asdict(replace(config, architecture=""))},
        "steps": steps,
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
        lower = len(backbone.model.model.layers) - 1
        self.below, self.lower = backbone.model.model, lower

    def forward(self, model: Karma, batch: SequenceBatch) -> dict[str, Tensor]:
        ours, mask = self.ours, batch.mask
        read, targets = self._tokens(model, batch.history), self._tokens(model, batch.targets)
        lengths = mask.sum(1)
        words = ours.words[batch.targets.gather(1, (lengths - 1)[:, None])[:, 0]]
        states, told = ours._told_after(model, read, lengths, words)
        h = states[torch.arange(len(states)), lengths - 1]
        items, right = torch.unique(batch.targets[mask], return_inverse=True)
        first = torch.zeros(len(items), dtype=torch.int64).scatter(0, right, torch.arange(len(right)))
        act = ours._act(model, states[mask], targets[mask][first], items, right, right[:, None][:, :0])
        return {
            "act": act,
            "generate": ours.config.generate * self._nll(told, words),
            "reconstruct": ours.config.reconstruct * self._nll(ours.told_from(model, h, words), words),
        }

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


def write(results: Path, name: str, store: Store, said: dict[str, Any]) -> None:
    result = Result(
        paper="benchmarks",
        table="karma",
        row=name,
        data=store.name,
        split=SPLIT,
        seed=0,
        window="train",
        config=said["config"],
        data_fingerprint=store.fingerprint,
        split_fingerprint=load_split(store, SPLIT).fingerprint,
        versions=versions_here(),
        device="cpu",
        cpu_seconds=said["cpu"],
        wall_seconds=said["wall"],
        steps=said["steps"],
        trials=1,
        metrics=said["metrics"],
        synthetic=bool(store.manifest.get("synthetic", False)),
    )
    write_result(results, result)


if __name__ == "__main__":
    main()
