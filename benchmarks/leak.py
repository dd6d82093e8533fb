"""What T2Diff's target gave away while runs trained, from the reports they wrote at each validation.

One set of weights, given guesses of several makes: what "from the target" reaches no system can serve. A row a run, its
last moment's numbers, and a figure of all of them. Beside that the paper's Figures 4 (and the same by step) and 5
for each run.

    penchant reproduce t2diff-long
    python -m benchmarks.leak runs/t2diff/long/t2diff-algorithm-1... runs/t2diff/long/t2diff... --store stores/ml-1m-all
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import argument_parser
from benchmarks.written import write

from penchant.errors import RunError
from penchant.papers.t2diff.leak import GUESSES, MEASURES, Leak, read_report
from penchant.papers.t2diff.model import T2DiffConfig
from penchant.recipes.runs import load_run
from penchant.recipes.t2diff.figures import COSINE, REVERSE, histogram_panels, reverse_panels, schedule_panels

TABLE, FIGURES = "leak", "leak-figures"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of T2Diff")
    parser.add_argument("--store", type=Path, help="where their Store lies, if not where it was")
    arguments = parser.parse_args()
    for folder in arguments.runs:
        moments = read_report(folder)
        if not moments:
            raise RunError("has no leak.json", where=folder, fix="Name runs of T2Diff with --leak-targets above 0.")
        loaded = load_run(folder, arguments.store, device="cpu")
        row = folder.name.partition(".")[0]
        metrics, config = metrics_of(moments[-1]), loaded.described["config"]
        print(row, metrics, flush=True)
        place = (loaded.store, loaded.split.name)
        slices = {"curves": curves_of(moments)}
        write(arguments.results, TABLE, row, *place, metrics, config, window="valid", slices=slices)
        reverse = [mean for mean, _ in moments[-1].reverse]
        cosines = {"Cosine of the first guess": reverse[0], "Cosine of the last": reverse[-1]}
        for figure, told, panels in (
            (row, cosines, {"over": REVERSE, "panels": reverse_panels(moments[-1])}),
            (f"{row}-histogram", cosines, {"over": COSINE, "panels": histogram_panels(moments[-1])}),
            ("schedules", {}, {"over": "r", "panels": schedule_panels(T2DiffConfig(**config["model"]))}),
        ):
            slices = {"curves": panels}
            write(arguments.results, FIGURES, figure, *place, told, config, window="valid", slices=slices)


def metrics_of(moment: Leak) -> dict[str, float | None]:
    """Each guess by each measure, and how far the estimate of z_0 is off: everywhere, and where it is unknown."""
    guesses = {f"{measure}, {guess}": moment.guesses[guess][measure] for measure in MEASURES for guess in GUESSES}
    return {**guesses, "Error of z_0, all steps": moment.drift["all"], "Error of z_0, last": moment.drift["last"]}


def curves_of(moments: Sequence[Leak]) -> dict[str, object]:
    """Each measure over the epochs, a line a guess."""
    panels = {
        measure: {guess: [(m.epochs, m.guesses[guess][measure]) for m in moments] for guess in GUESSES}
        for measure in MEASURES
    }
    return {"over": "epochs", "panels": panels}


if __name__ == "__main__":
    main()
