"""T2Diff's tables: Tables 2 to 4, the model's forms, and the controls that say what the diffusion module is worth.

All numbers are of the served model; what a guess from the target would score is in the leak's reports of `table_long`
alone. T2Diff's forms read how long ago each action was, none of the other models does (`no-time-lag` of the forms).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from penchant.recipes import controls
from penchant.recipes.rows import ResultTable, Row, with_rate
from penchant.recipes.runs import Run, SequenceRun
from penchant.recipes.t2diff import baselines as sequence
from penchant.recipes.t2diff.causal import CausalT2DiffRun, t2diff_causal, t2diff_content
from penchant.recipes.t2diff.run import T2DiffRun, mixed_attention, t2diff, t2diff_algorithm_1, t2diff_literal
from penchant.training.loop import TrainConfig

ML1M, BEAUTY = "ml-1m-all", "beauty"
TEMPORAL, LOO = "temporal-successive", "loo"
TARGETS = 5000
"""Judged, drawn at random from all: T steps for each would take longer than training."""
TESTED = 20_000
"""Judged of what is served by one step: more of them, as the chosen are tested once."""
EPOCHS = 0.35
"""About 1,100 steps of 256 targets on ML-1M: T2Diff's four minutes on one core. Its controls take as many steps."""
COMPUTE = 2.0
"""Times the steps of mixed attention that T2Diff's time is worth: CPU seconds of its runs by those of mixed attention's
(1.95 in the results of Table 2)."""
LONG = 1.3
"""About 4,000 steps."""
BASELINE_EPOCHS = {
    "sasrec": 5.0,
    "esasrec": 4.3,
    "gru4rec": 5.2,
    "caser": 5.0,
    "bert4rec": 9.0,
    "stosa": 2.5,
    "contrast-vae": 2.0,
    "diffurec": 5.0,
    "dat": 4.5,
}
"""As many minutes for the models of others, which learn at many positions of a history at once."""
LONGER = 12.0
"""Passes of the rows past the paper that take longer: SASRec goes on learning for so long."""
RATES = (0.5, 1.0, 2.0, 4.0)
"""Times a recipe's learning rate: of few steps larger ones may be better."""
RATE = 8e-3
"""What validation chose for T2Diff without the leak."""
LAST_BETA = {10: 0.9798, 50: 0.5, 200: 0.1137}
"""beta_T that leaves as much of z_0 at each T as 0.5 does at T = 50, abar_T = 0.0072; else T would change that too."""


def baselines() -> dict[str, SequenceRun]:
    """The other models of Table 2, and eSASRec, each by its recipe and for as long; one more is one line more."""
    runs = {
        "sasrec": controls.sasrec(),
        "esasrec": controls.esasrec(),
        "gru4rec": controls.gru4rec(),
        "caser": sequence.caser(),
        "bert4rec": sequence.bert4rec(),
        "stosa": sequence.stosa(),
        "contrast-vae": sequence.contrast_vae(),
        "diffurec": sequence.diffurec(),
        "dat": sequence.dat(),
    }
    return {name: _shortened(run, BASELINE_EPOCHS[name]) for name, run in runs.items()}


def forms(width: int = 64) -> dict[str, T2DiffRun]:
    """T2Diff's rows of Table 2, as printed and as we do it, and controls of our own.

    mixed-parameters has as many parameters as T2Diff, in attention. mixed-compute has T2Diff's time, for more steps.
    last-item hands the tower the last action where T2Diff hands it the guess; the tower's loss teaches it, as it does
    not T2Diff's guess.
    """
    alone = mixed_attention()
    runs = {
        "t2diff-literal": t2diff_literal(),
        "t2diff-algorithm-1": t2diff_algorithm_1(),
        "t2diff": t2diff(),
        "wo-dp-literal": _without_drift(t2diff_literal()),
        "wo-dp": _without_drift(t2diff()),
        "mixed-attention": alone,
        "mixed-parameters": replace(alone, model=replace(alone.model, blocks=2, expansion=3)),
        "mixed-compute": alone,
        "last-item": replace(alone, model=replace(alone.model, xhat="last")),
    }
    return {
        name: _timed(_width(run, width), COMPUTE * EPOCHS if name == "mixed-compute" else EPOCHS)
        for name, run in runs.items()
    }


def table2() -> ResultTable:
    """Every row on ML-1M by time; each at the best of its rates on validation. Three seeds.

    mixed-parameters-slower is at T2Diff's rate: a quarter of the steps chose a higher one for mixed-parameters, which
    all of them show to be worse.
    """
    runs: dict[str, T2DiffRun | SequenceRun] = {**forms(), **baselines()}
    rows = [_row(name, run, TEMPORAL) for name, run in runs.items()]
    slower = _row("mixed-parameters-slower", with_rate(forms()["mixed-parameters"], RATE), TEMPORAL)
    return ResultTable(paper="t2diff", name="table2", rows=(*rows, replace(slower, rates=())), seeds=3, targets=TARGETS)


def table2_loo() -> ResultTable:
    """Its main rows leave-one-out, as the paper may have judged. One seed."""
    runs: dict[str, T2DiffRun | SequenceRun] = {**forms(), **baselines()}
    main = ("t2diff-literal", "t2diff-algorithm-1", "t2diff", "mixed-attention", "sasrec")
    rows = tuple(_row(name, runs[name], LOO) for name in main)
    return ResultTable(paper="t2diff", name="table2-loo", rows=rows, seeds=1, targets=TARGETS)


def table2_beauty() -> ResultTable:
    """The main row, mixed attention, and it with the last action in the guess's place, on Beauty, beside the SASRec
    that was tuned for it by hand. Three seeds."""
    alone = mixed_attention()
    ours = {
        "t2diff": t2diff(),
        "mixed-attention": alone,
        "last-item": replace(alone, model=replace(alone.model, xhat="last")),
    }
    rows = (
        *(
            Row(name=name, run=_on_beauty(run), rates=RATES, data=BEAUTY, split=LOO, minutes=20.0)
            for name, run in ours.items()
        ),
        Row(name="sasrec", run=controls.sasrec_beauty(), data=BEAUTY, split=LOO, minutes=16.0, trials=10),
    )
    return ResultTable(paper="t2diff", name="table2-beauty", rows=rows, seeds=3)


def table2_published() -> ResultTable:
    """Models of others with the loss they were published with, which draws negatives; Table 2 has them with a softmax
    over the catalogue, from where their sizes are. One seed."""
    runs = {name: baselines()[name] for name in ("caser", "stosa", "contrast-vae", "dat")}
    rows = tuple(
        _row(name, replace(run, objective=replace(run.objective, loss="published")), TEMPORAL)
        for name, run in runs.items()
    )
    return ResultTable(paper="t2diff", name="table2-published", rows=rows, seeds=1, targets=TARGETS)


def table2_d8() -> ResultTable:
    """Table 2 at the width that the paper's parameter counts betray, D = 8; all at one rate. One seed.

    Without the controls of equal size and time, which are measured out at Table 2's width.
    """
    left_out = "wo-dp-literal", "mixed-parameters", "mixed-compute"
    ours = {name: run for name, run in forms(8).items() if name not in left_out}
    runs: dict[str, T2DiffRun | SequenceRun] = {**ours, **{name: _narrow(run) for name, run in baselines().items()}}
    return _table("table2-d8", {name: with_rate(run, 5e-3) for name, run in runs.items()})


def table_long() -> ResultTable:
    """The leak by epoch, and whether what three minutes say holds after some 4,000 steps. One seed.

    The reports in the runs' folders tell too what one step of the reverse process is worth beside T, by one model.
    """
    runs = {
        "t2diff-literal": t2diff_literal(),
        "t2diff-algorithm-1": t2diff_algorithm_1(),
        "t2diff": t2diff(),
        "mixed-attention": mixed_attention(),
    }
    long = {
        name: replace(run, train=replace(_for(run.train, LONG), evaluate_every=LONG / 8)) for name, run in runs.items()
    }
    return _table("long", long, minutes=30.0)


def table3() -> ResultTable:
    """Schedules with the same end points, served by T steps as the paper does and by one. One seed."""
    runs: dict[str, Run] = {}
    for kind in ("exp", "linear", "log"):
        for name, run in (("algorithm-1", t2diff_algorithm_1()), ("t2diff", t2diff())):
            runs[f"{name}-{kind}"] = _timed(replace(run, model=replace(run.model, schedule=kind)))
    return _table("table3", runs)


def table4() -> ResultTable:
    """T = 10, 50, 200, with the same noise at T; each result tells its seconds. One seed."""
    runs: dict[str, Run] = {}
    for steps, last in LAST_BETA.items():
        for name, run in (("algorithm-1", t2diff_algorithm_1()), ("t2diff", t2diff())):
            model = replace(run.model, steps=steps, last_beta=last)
            runs[f"{name}-t{steps}"] = _timed(replace(run, model=model))
    return _table("table4", runs)


def table_forms() -> ResultTable:
    """One choice changed at a time, where the paper leaves it open or is unclear; all at the rate that Table 2 chose
    for the first of them. One seed."""
    run = with_rate(forms()["t2diff"], RATE)
    model, told = run.model, run.objective
    changed = {
        "t2diff": run,
        "ddim-5": replace(run, model=replace(model, xhat="ddim")),
        "leaky-onestep": replace(run, objective=replace(told, train_xhat="onestep_r")),
        "samples-8": replace(run, model=replace(model, samples=8)),
        "kl-mu": replace(run, objective=replace(told, kl_weight="mu")),
        "kl-last": replace(run, objective=replace(told, kl_positions="last")),
        "kl-10": replace(run, objective=replace(told, kl=10.0)),
        "attached-in": replace(run, objective=replace(told, detach_in=False)),
        "no-step-embedding": replace(run, model=replace(model, step_embedding=False)),
        "attention-ratio": replace(run, model=replace(model, attention="literal_ratio")),
        "attention-none": replace(run, model=replace(model, attention="none")),
        "session-gap": replace(run, model=replace(model, session="gap")),
        "no-time-lag": replace(run, model=replace(model, time_lag=False)),
    }
    return _table("forms", changed)


def past() -> ResultTable:
    """Past the paper: what of T2Diff's idea helps a causal transformer. One seed, judged on validation, to choose by.

    sasrec and sasrec-content make no guess: they are what the others have to beat; rows that end in -longer have more
    passes; "zero" has the network that reads a guess, and none to read; "last" reads the last item in the guess's
    place; "regressed" makes its guess without noise, by the same network. By default neither loss teaches what the
    other's needs: "taught" lets the diffusion's teach h_t, "joint" also the softmax the diffusion.
    """
    run, content = (_causal(_plain(run)) for run in (t2diff_causal(), t2diff_content()))
    model, told = run.model, run.objective
    taught = replace(told, detach_in=False)
    runs: dict[str, Run] = {
        "sasrec": replace(run, model=replace(model, guess="none")),
        "sasrec-longer": replace(run, model=replace(model, guess="none"), train=_for(run.train, LONGER)),
        "zero": replace(run, model=replace(model, guess="zero")),
        "last": replace(run, model=replace(model, guess="last")),
        "last-longer": replace(run, model=replace(model, guess="last"), train=_for(run.train, LONGER)),
        "causal": run,
        "taught": replace(run, objective=taught),
        "joint": replace(run, objective=replace(taught, detach_out=False)),
        "next-item": replace(run, model=replace(model, drift=False), objective=taught),
        "slow": replace(run, model=replace(model, latent="slow"), objective=taught),
        "ddim-5": replace(run, model=replace(model, guess="ddim"), objective=taught),
        **{f"samples-{n}": replace(run, model=replace(model, samples=n), objective=taught) for n in (2, 4, 8)},
        "regressed": replace(run, model=replace(model, guess="regressed"), objective=taught),
        "samples-8-longer": replace(
            run, model=replace(model, samples=8), objective=taught, train=_for(run.train, LONGER)
        ),
        "samples-8-slow": replace(run, model=replace(model, samples=8, latent="slow"), objective=taught),
        "union-8": replace(run, model=replace(model, samples=8, union=True), objective=taught),
        "guided": replace(run, model=replace(model, guidance=1.0), objective=taught),
        "sasrec-content": replace(content, model=replace(content.model, guess="none", latent="items")),
        "content": replace(content, objective=taught),
        "content-longer": replace(content, objective=taught, train=_for(run.train, LONGER)),
        "content-last": replace(content, model=replace(content.model, guess="last")),
        "content-last-longer": replace(
            content, model=replace(content.model, guess="last"), train=_for(run.train, LONGER)
        ),
        "content-latent-alone": replace(content, model=replace(content.model, item_content=False), objective=taught),
    }
    return replace(_table("past", runs), window="valid")


def past_chosen() -> ResultTable:
    """Past the paper, tested once: what `past` chose, beside SASRec and GRU4Rec, as many passes for all, each at the
    best of four rates on validation. Three seeds, which chose nothing.

    last-item reads the last item in the guess's place: what there is of T2Diff without any diffusion.
    """
    chosen = t2diff_causal()
    runs: dict[str, CausalT2DiffRun | SequenceRun] = {
        "sasrec": controls.sasrec(),
        "gru4rec": controls.gru4rec(),
        "t2diff": chosen,
        "last-item": replace(chosen, model=replace(chosen.model, guess="last", samples=1)),
    }
    longer = {name: replace(run, train=_for(run.train, LONGER)) for name, run in runs.items()}
    rows = tuple(
        Row(name=name, run=run, rates=RATES, data=ML1M, split=TEMPORAL, minutes=12.0) for name, run in longer.items()
    )
    return ResultTable(paper="t2diff", name="past-chosen", rows=rows, seeds=3, first_seed=1, targets=TESTED)


def _timed(run: T2DiffRun, epochs: float = EPOCHS) -> T2DiffRun:
    return replace(run, train=_for(run.train, epochs), leak_targets=0)


def _causal(run: CausalT2DiffRun) -> CausalT2DiffRun:
    """As many passes for all; SASRec's own three minutes."""
    return replace(run, train=_for(run.train, BASELINE_EPOCHS["sasrec"]))


def _plain(run: CausalT2DiffRun) -> CausalT2DiffRun:
    """One guess, and stop-gradients on both sides, as T2Diff has them."""
    model, told = replace(run.model, samples=1), replace(run.objective, detach_in=True)
    return replace(run, model=model, objective=told)


def _shortened(run: SequenceRun, epochs: float) -> SequenceRun:
    return replace(run, train=_for(run.train, epochs))


def _for(train: TrainConfig, epochs: float) -> TrainConfig:
    """So long. Validations by T steps cost the most, so there are two."""
    return replace(train, epochs=epochs, evaluate_every=epochs / 2, tensorboard=False)


def _on_beauty(run: T2DiffRun) -> T2DiffRun:
    """Short histories, few of them, rare items, no times: more passes and more dropout."""
    model = replace(run.model, time_lag=False, dropout=0.5)
    return replace(run, model=model, train=_for(run.train, 12.0), leak_targets=0)


def _without_drift(run: T2DiffRun) -> T2DiffRun:
    return replace(run, model=replace(run.model, drift=False))


def _width(run: T2DiffRun, width: int) -> T2DiffRun:
    return replace(run, model=replace(run.model, width=width, inner=4 * width))


def _narrow(run: SequenceRun, width: int = 8) -> SequenceRun:
    """With all that has a width as much narrower."""
    wide = vars(run.model)
    narrower = {size: wide[size] * width // wide["width"] for size in ("width", "state", "inner") if size in wide}
    return replace(run, model=replace(run.model, **narrower))


def _row(name: str, run: T2DiffRun | SequenceRun, split: str) -> Row:
    return Row(name=name, run=run, rates=RATES, data=ML1M, split=split, minutes=4.0)


def _table(name: str, runs: Mapping[str, Run], minutes: float = 4.0) -> ResultTable:
    rows = tuple(Row(name=row, run=run, data=ML1M, split=TEMPORAL, minutes=minutes) for row, run in runs.items())
    return ResultTable(paper="t2diff", name=name, rows=rows, seeds=1, targets=TARGETS)


def tables() -> tuple[ResultTable, ...]:
    """All of T2Diff's."""
    of_table2 = table2(), table2_loo(), table2_beauty(), table2_published(), table2_d8()
    return *of_table2, table_long(), table3(), table4(), table_forms(), past(), past_chosen()
