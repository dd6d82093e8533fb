"""What a run of T2Diff shows of its leak, and Figures 4 and 5 of the paper for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from penchant.evaluation.figures import draw_lines
from penchant.papers.t2diff.diffusion import noise_levels
from penchant.papers.t2diff.leak import MEASURES, PICTURE, Leak, draw_report
from penchant.papers.t2diff.model import T2DiffConfig
from penchant.recipes.runs import RUN

SCHEDULES = ("exp", "linear", "log")


def leak_table(leak: Leak) -> Table:
    """The guesses of one moment, for a terminal."""
    table = Table("guess", *MEASURES, title=f"after {leak.epochs:.2f} epochs, on validation targets", box=None)
    for name, values in leak.guesses.items():
        table.add_row(name, *(f"{values[measure]:.4f}" for measure in MEASURES))
    return table


def draw_figures(run: Path, moments: Sequence[Leak]) -> dict[str, bytes]:
    """Name -> SVG: the leak by epoch; cosine of z^_0 and z_0 by reverse step (Figure 4); beta_r and what is left of z_0
    (Figure 5), the run's own steps and end points.

    Args:
        moments: of the run's report, the earliest first; at least one.
    """
    config = T2DiffConfig(**json.loads((run / RUN).read_text())["config"]["model"])
    reverse = list(enumerate(moments[-1].reverse))
    near = {
        "mean": [(step, mean) for step, (mean, _) in reverse],
        "mean - deviation": [(step, mean - spread) for step, (mean, spread) in reverse],
        "mean + deviation": [(step, mean + spread) for step, (mean, spread) in reverse],
    }
    betas, left = {}, {}
    for schedule in SCHEDULES:
        levels = noise_levels(replace(config, schedule=schedule))
        betas[schedule] = list(enumerate(levels.tolist(), start=1))
        left[schedule] = list(enumerate((1 - levels).cumprod(0).tolist(), start=1))
    return {
        PICTURE: draw_report(moments),
        "figure4.svg": draw_lines("The reverse process", "reverse steps done", {"cosine of its guess and z_0": near}),
        "figure5.svg": draw_lines("Schedules with the same end points", "r", {"beta": betas, "share left": left}),
    }
