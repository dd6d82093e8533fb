"""What a run of T2Diff shows of its leak, and Figures 4 and 5 of the paper for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from penchant.data.store import read_json
from penchant.errors import RunError
from penchant.evaluation.figures import draw_lines
from penchant.papers.t2diff.diffusion import noise_levels
from penchant.papers.t2diff.leak import MEASURES, PICTURE, Leak, draw_report
from penchant.papers.t2diff.model import T2DiffConfig
from penchant.recipes.runs import AGAIN, RUN

SCHEDULES = ("exp", "linear", "log")
REVERSE, COSINE = "reverse steps done", "cosine of z^_0 and z_0"


def leak_table(leak: Leak) -> Table:
    """The guesses of one moment, for a terminal."""
    table = Table(
        "guess",
        *MEASURES,
        title=f"after {leak.epochs:.2f} epochs, on validation targets",
        caption=f"squared error of z_0: {leak.drift['all']:.3f} over all steps of a history, "
        f"{leak.drift['last']:.3f} over the last, which alone is unknown",
        box=None,
    )
    for name, values in leak.guesses.items():
        table.add_row(name, *(f"{values[measure]:.4f}" for measure in MEASURES))
    return table


def draw_figures(run: Path, moments: Sequence[Leak]) -> dict[str, bytes]:
    """Name -> SVG: the leak by epoch; the reverse process by step, and Figure 4; Figure 5.

    Args:
        moments: of the run's report, the earliest first; at least one.
    """
    config = T2DiffConfig(**read_json(run / RUN, AGAIN, RunError)["config"]["model"])
    histogram = histogram_panels(moments[-1])
    return {
        PICTURE: draw_report(moments),
        "reverse.svg": draw_lines("The reverse process", REVERSE, reverse_panels(moments[-1])),
        **({"figure4.svg": draw_lines("The reverse process", COSINE, histogram)} if histogram["targets"] else {}),
        "figure5.svg": draw_lines("Schedules with the same end points", "r", schedule_panels(config)),
    }


def reverse_panels(moment: Leak) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Cosine of z^_0 and z_0 by reverse step."""
    return {
        "cosine of its guess and z_0": {
            name: [(step, mean + times * spread) for step, (mean, spread) in enumerate(moment.reverse)]
            for name, times in (("mean", 0), ("mean - deviation", -1), ("mean + deviation", 1))
        }
    }


def histogram_panels(moment: Leak) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Figure 4: how many targets have which cosine of z^_0 and z_0, at the middles of its bins."""
    return {
        "targets": {
            name: [(2 * (place + 0.5) / len(counts) - 1, count) for place, count in enumerate(counts)]
            for name, counts in moment.histogram.items()
        }
    }


def schedule_panels(config: T2DiffConfig) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Figure 5: beta_r and what is left of z_0, by a model's steps and end points."""
    betas, left = {}, {}
    for schedule in SCHEDULES:
        levels = noise_levels(replace(config, schedule=schedule))
        betas[schedule] = list(enumerate(levels.tolist(), start=1))
        left[schedule] = list(enumerate((1 - levels).cumprod(0).tolist(), start=1))
    return {"beta": betas, "share left": left}
