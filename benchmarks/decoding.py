"""Whether IDDU tells anything: nats between P and what the decoder tells, on impressions that no training has seen.

Beside it the nats of a decoder that looks at nothing and tells the mean P. Only runs whose Q is a softmax over all
cells can be compared so.

    python -m benchmarks.decoding runs/dmae/forms/*.s0 --stores stores
"""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarks.command import argument_parser, parsed, run_in
from benchmarks.written import is_there, write
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from penchant.funnel.features import Features
from penchant.funnel.rank import judging
from penchant.models import load_model
from penchant.papers.dmae.model import DMAE
from penchant.papers.dmae.objective import (
    DMAEObjective,
    DMAEObjectiveConfig,
    Told,
    decoding_distance,
)
from penchant.training.checkpoint import OBJECTIVE
from penchant.training.impressions import ImpressionBatches

TABLE = "decoding"
BATCHES = 20


def main() -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of dmae")
    parser.add_argument("--stores", type=Path, default=Path("stores"))
    arguments = parsed(parser)
    for folder in arguments.runs:
        loaded = run_in(folder, arguments.stores)
        row, split = folder.name.split(".")[0], loaded.split.name
        told = DMAEObjectiveConfig(**(loaded.described["config"]["objective"] or {}))
        if told.q != "softmax" or not told.decode:
            print(f"{row}: q is {told.q}, weighed by {told.decode}; left out")
        elif is_there(arguments.results, TABLE, row, loaded.store, split):
            print(f"{row}: finished before")
        else:
            model: DMAE = load_model(folder)
            objective = DMAEObjective(told, model.config.modalities, model.config.interest)
            objective.load_state_dict(load_file(folder / OBJECTIVE))
            batches = ImpressionBatches(loaded.store, loaded.split, "test", Features.load(folder), cells=1024)
            metrics = measured(model, objective, batches)
            print(row, ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()), flush=True)
            where = (arguments.results, TABLE, row, loaded.store, split)
            write(*where, metrics, loaded.described["config"], window="test", steps=BATCHES)


def measured(model: DMAE, objective: DMAEObjective, batches: ImpressionBatches) -> dict[str, float]:
    """By modality: nats told, nats of the constant, and the share of them that is told."""
    told: dict[str, list[Told]] = {name: [] for name in objective.modalities}
    with judging(model), judging(objective):
        for step in range(BATCHES):
            batch = batches.batch(step)
            interests = model.interests(batch.inputs)
            for m, parts in enumerate(told.values()):
                parts.append(objective.told(interests, m, batch.mask))
        metrics: dict[str, float] = {}
        for decoder, (name, parts) in zip(objective.decoders, told.items(), strict=True):
            p = torch.cat([part.p for part in parts])
            nats = decoding_distance(decoder(torch.cat([part.pooled for part in parts])), p, objective.config)
            ours, nothing = float(nats.mean()), float(constant_distance(p))
            metrics |= {f"{name}: nats": ours, f"{name}: nats of the mean": nothing}
            metrics[f"{name}: share told"] = 1 - ours / nothing
    return metrics


def constant_distance(p: Float[Tensor, "N c"]) -> Float[Tensor, ""]:
    """Mean KL of P to the mean P, in nats: what a decoder reaches that looks at nothing. IDDU works if it is below."""
    return (torch.special.entr(p.mean(0)).sum() - torch.special.entr(p).sum(1).mean()).clamp(min=0)


if __name__ == "__main__":
    main()
