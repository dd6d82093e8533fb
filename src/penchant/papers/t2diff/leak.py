"""What of x_{n+1} reaches the tower while it trains, and what that is worth when serving: the leak. Train-only.

One set of weights is judged with guesses of several makes. `from the target` sees it and no system could serve it;
all others could. These numbers are for this report alone: tables of results come from `evaluation/protocol.py`, which
asks `user_vectors`, which is given no target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from penchant.data.split import Split
from penchant.data.store import Store, read_json, write_json
from penchant.errors import RunError
from penchant.evaluation.figures import draw_lines
from penchant.evaluation.metrics import RANK_METRICS
from penchant.evaluation.protocol import subsample
from penchant.layers import noise_of_users
from penchant.papers.t2diff.model import Past, T2Diff
from penchant.papers.t2diff.objective import drift_distance, noised, unknown
from penchant.papers.t2diff.samples import SampleBatch, samples_of

FILE, PICTURE = "leak.json", "leak.svg"
FROM_TARGET = "from the target"
"""Algorithm 1's guess, made of the noised target: what the tower learns with by Algorithm 1, and not by our default."""
GUESSES = (FROM_TARGET, "chain", "one step", "zero", "last item", "random item")
MEASURES = ("Recall@20", "MRR@20", "cosine")
BINS = 50
"""Of the histogram of cosines."""
ROWS = 256
SEED = 0
"""Of the targets that are judged, and of the noise and the random items they are judged with."""


@dataclass(frozen=True)
class Leak:
    """The weights of one moment.

    Attributes:
        epochs: passes over the data before it.
        guesses: for each of GUESSES its MEASURES; cosine of x^_{n+1} and x_{n+1}, 0 where x^ is zero.
        drift: mean squared error of z^_0 over all positions, and over the last, which alone is unknown.
        reverse: mean and standard deviation of the cosine of z^_0 and z_0 at the last position, for t = T .. 1.
        histogram: how many targets have which of these cosines, by bins of equal width from -1 to 1, after the first
            of the T steps, half of them, and all (Figure 4). Not in reports of older versions.
    """

    epochs: float
    guesses: dict[str, dict[str, float]]
    drift: dict[str, float]
    reverse: list[tuple[float, float]]
    histogram: dict[str, list[int]] = field(default_factory=dict)


@torch.no_grad()
def measure_leak(model: T2Diff, store: Store, split: Split, epochs: float, targets: int) -> Leak:
    """Judge the model on targets of the validation window, drawn at random, always the same.

    Raises:
        ValueError: the model has no diffusion module.
    """
    events, _ = subsample(split.targets("valid"), targets, SEED)
    items = model.item_vectors()
    dice = torch.Generator().manual_seed(SEED)
    ranks: dict[str, list[Tensor]] = {name: [] for name in GUESSES}
    cosines: dict[str, list[Tensor]] = {name: [] for name in GUESSES}
    drift: dict[str, list[Tensor]] = {"all": [], "last": []}
    reverse: list[Tensor] = []
    for start in range(0, len(events), ROWS):
        part = samples_of(store, events[start : start + ROWS], model.config.max_len).to(items.device)
        seen = _Sample(model, part, dice)
        for name, xhat in seen.guesses.items():
            scores = model.tower(seen.past, xhat) @ items.T
            own = scores.gather(1, part.targets[:, None])
            higher, same = (scores[:, 1:] > own).sum(1), (scores[:, 1:] == own).sum(1)
            ranks[name].append(higher + (same + 1) / 2)
            cosines[name].append(F.cosine_similarity(xhat, seen.following))
        for positions, errors in seen.drift.items():
            drift[positions].append(errors.expand(len(part.targets)))
        reverse.append(seen.reverse)
    measured = {
        name: {
            **{
                m: float(RANK_METRICS[m.partition("@")[0]](torch.cat(ranks[name]).cpu().numpy(), 20).mean())
                for m in MEASURES[:2]
            },
            "cosine": float(torch.cat(cosines[name]).mean()),
        }
        for name in GUESSES
    }
    by_step = torch.cat(reverse, dim=1)
    spread = by_step.std(1, correction=0)
    return Leak(
        epochs=epochs,
        guesses=measured,
        drift={name: float(torch.cat(errors).mean()) for name, errors in drift.items()},
        reverse=list(zip(by_step.mean(1).tolist(), spread.tolist(), strict=True)),
        histogram={
            f"after step {step}": torch.histc(by_step[step - 1].cpu(), BINS, min=-1, max=1).int().tolist()
            for step in (1, len(by_step) // 2, len(by_step))
        },
    )


class _Sample:
    """Some targets, and a guess of each make for them.

    Attributes:
        past, following: what was done, and x_{n+1}.
        drift: see `Leak`.
        reverse: [T, B] cosines.
    """

    def __init__(self, model: T2Diff, batch: SampleBatch, dice: torch.Generator) -> None:
        diffusion = model.diffusion
        if diffusion is None:
            raise ValueError(f"xhat {model.config.xhat!r} has no diffusion module to measure")
        self.past: Past = model.past(batch.requests)
        self.following = model.items(batch.targets)
        x, real = self.past.x, self.past.real
        draw = noise_of_users(batch.requests.users, x.shape[1], x.shape[2], model.config.noise_seed)
        z_0 = unknown(model, x, self.following)
        r = torch.randint(1, model.config.steps + 1, (len(x),), generator=dice).to(x.device)
        noise = torch.randn(x.shape, generator=dice).to(x)
        told = diffusion.estimate(noised(diffusion, z_0, r, noise), r, x / model.scale, real)
        even = torch.ones(len(x), device=x.device)
        self.drift = {name: drift_distance(told, z_0, real, even, name) for name in ("all", "last")}
        sampled, reverse = z_0, []
        for sampled in diffusion.chain(x / model.scale, real, draw):
            reverse.append(F.cosine_similarity(sampled[:, -1], z_0[:, -1]))
        self.reverse = torch.stack(reverse)
        strangers = torch.randint(1, model.num_items + 1, (len(x),), generator=dice).to(x.device)
        self.guesses: dict[str, Float[Tensor, "B D"]] = {
            FROM_TARGET: model.restored(told, x),
            "chain": model.restored(sampled, x),
            "one step": model.restored(diffusion.ddim(x / model.scale, real, draw, 1), x),
            "zero": torch.zeros_like(self.following),
            "last item": x[:, -1],
            "random item": model.items(strangers),
        }


def add_to_report(leak: Leak, folder: Path) -> None:
    """Put one moment into the folder's `leak.json`, in place of it and of later ones, and draw `leak.svg` anew."""
    folder.mkdir(parents=True, exist_ok=True)
    before = [old for old in read_report(folder) if old.epochs < leak.epochs]
    moments = [*before, leak]
    write_json(folder / FILE, {"moments": [vars(moment) for moment in moments]})
    (folder / PICTURE).write_bytes(draw_report(moments))


def read_report(folder: Path) -> list[Leak]:
    """The moments of a folder's report, the earliest first; none where there is no report."""
    file = folder / FILE
    if not file.is_file():
        return []
    return [Leak(**{**moment, "reverse": [tuple(pair) for pair in moment["reverse"]]}) for moment in _moments(file)]


def _moments(file: Path) -> list[dict[str, Any]]:
    return read_json(file, "Train the run again.", RunError)["moments"]


def draw_report(moments: Sequence[Leak]) -> bytes:
    """Each measure over the epochs, a line for each make of guess; SVG."""
    panels = {
        measure: {name: [(moment.epochs, moment.guesses[name][measure]) for moment in moments] for name in GUESSES}
        for measure in MEASURES
    }
    return draw_lines("One model, guesses of several makes; 'from the target' cannot be served", "epochs", panels)
