"""What a funnel did with the true next items: the numbers, their JSON, and their picture in the terminal.

`audit.FunnelAudit` fills a `FunnelReport`, `page.write_page` draws it. A report holds counts and shares only: no title,
no user, no item of the data, so that its JSON may be published. Shares are of all targets unless said otherwise,
intervals are 95 % by bootstrap over users.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from penchant.errors import RunError
from penchant.evaluation.pages import percent

FORMAT = 2
"""Version of the JSON; another one is refused."""

StageName = Literal["retrieve", "merge", "prerank", "rank"]
STAGES: tuple[StageName, ...] = ("retrieve", "merge", "prerank", "rank")

STAGE_TITLES = {"retrieve": "Retrieval", "merge": "Merge", "prerank": "Pre-ranking", "rank": "Ranking"}

REPEATED = "had before"
"""The slice of targets that are in their user's history; absent where none is."""

PLACE_BINS = (1, 2, 6, 11, 21, 51, 101, 201, 501)
"""Where each bin of `ChannelReport.places` starts; the last one is open."""


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the report was made of.

    Attributes:
        data: the Store's name.
        versions: of the packages, by name.
        config: the funnel's settings, flat: a name and its value as text.
        synthetic: True for generated data; every page says so.
    """

    data: str
    store_fingerprint: str
    split: str
    split_fingerprint: str
    window: str
    seed: int
    synthetic: bool
    versions: Mapping[str, str]
    config: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One stage: what it passed on, and what it lost.

    Attributes:
        size: mean number of different items a request has after this stage; `rank` is the list's k.
        survived: share of the targets still there after this stage.
        lost: targets that this stage was given and did not pass on (for `retrieve`: that no channel found).
        lost_share: the same, of all targets; with the last stage's `survived` these add to one.
        miss_share: the same, of the misses; these add to one.
    """

    stage: StageName
    size: float
    survived: Interval
    lost: int
    lost_share: Interval
    miss_share: float


@dataclass(frozen=True, kw_only=True)
class AtK:
    """The funnel's list, cut at k. NDCG of one target at place p is 1 / log2(1 + p), 0 beyond k."""

    k: int
    hr: Interval
    ndcg: Interval


@dataclass(frozen=True, kw_only=True)
class ChannelReport:
    """One channel's part.

    Attributes:
        size: mean length of its list.
        found: share of the targets in its list.
        exclusive: share of the targets in its list and in no other's.
        median_place: of the targets it found, in its own list; 0 where it found none.
        places: how many it found at each place, by `PLACE_BINS`.
    """

    name: str
    size: float
    found: Interval
    exclusive: Interval
    median_place: float
    places: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Combination:
    """Targets found by exactly these channels. No channel: found only by the fallback's fill of a short list."""

    channels: tuple[str, ...]
    count: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Control:
    """A simpler order cut at the same k. The gain is the funnel's value less the control's, paired by target.

    Attributes:
        name: the channel's name, or "merge" / "prerank" for the order after that stage.
        kind: "channel": this channel alone; "stage": the funnel stopped after this stage.
    """

    name: str
    kind: Literal["channel", "stage"]
    hr: Interval
    ndcg: Interval
    hr_gain: Interval


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """Targets among the M' items that reach the ranker: chosen by the pre-ranker, or simply the merged list's first M'.

    Attributes:
        size: mean M'.
        prerank: by its fused scores where they are fused.
        gain: the pre-ranker's share less plain truncation's.
    """

    size: float
    prerank: Interval
    plain: Interval
    gain: Interval


@dataclass(frozen=True, kw_only=True)
class FusionReport:
    """The same M' items chosen by the pre-ranker alone, beside those chosen by the fused scores, `Truncation.prerank`.

    Attributes:
        alone: share of the targets that the pre-ranker alone would have kept.
        gain: the fused scores' share less that.
        only_fused, only_alone: share of the targets that one of the two kept and the other did not.
    """

    alone: Interval
    gain: Interval
    only_fused: Interval
    only_alone: Interval


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """HR@k if one stage were perfect (never lost a target it was given) and the others as they are.

    Attributes:
        projected: the targets so saved survive the later stages as often as those that reach them today. They are the
            harder ones, so this is the hopeful end of what a better stage would bring.
        bound: the targets so saved all end up within k. Nothing this stage does can bring more.
        measured: the later stages' own verdict on the targets so saved; None where they gave none. For `rank` it is
            exact: every target among the M' is a hit. For `prerank` the true ranker orders the M' with the saved target
            in the place of the last.
    """

    stage: StageName
    projected: float
    bound: float
    measured: float | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """HR at each of the report's `curve_ks`, for one order."""

    name: str
    kind: Literal["funnel", "stage", "channel"]
    hr: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Wall time in milliseconds. A request's time is its batch's, divided by the batch's size."""

    stage: str
    request_p50_ms: float
    request_p95_ms: float
    batch_p50_ms: float
    batch_p95_ms: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The funnel on some of the targets; shares are of those."""

    group: str
    name: str
    count: int
    retrieved: float
    merged: float
    preranked: float
    hit: Interval


@dataclass(frozen=True, kw_only=True)
class FunnelReport:
    """Everything the funnel report says.

    Attributes:
        k: the headline's list length, the first of `ks`.
        stages: in the order of `STAGES`; the last one's `survived` is HR@k.
        overlap: mean Jaccard similarity of each two channels' lists.
        combinations: every one that occurs, the most frequent first.
        num_users: an anonymous request counts as a user of its own.
        fusion: None where the pre-ranker's scores are not fused.
        latency: each channel, then the later stages, then "total".
        batch_size: the most requests timed together.
    """

    provenance: Provenance
    num_targets: int
    num_users: int
    num_items: int
    k: int
    final: tuple[AtK, ...]
    stages: tuple[StageReport, ...]
    channels: tuple[ChannelReport, ...]
    overlap: tuple[tuple[float, ...], ...]
    combinations: tuple[Combination, ...]
    controls: tuple[Control, ...]
    truncation: Truncation
    fusion: FusionReport | None
    ceilings: tuple[Ceiling, ...]
    curve_ks: tuple[int, ...]
    curves: tuple[Curve, ...]
    latency: tuple[Latency, ...]
    batch_size: int
    slices: tuple[Slice, ...]

    @property
    def tells_p95(self) -> bool:
        """Whether enough batches were timed for the time that one in twenty exceeds."""
        return self.num_targets >= 20 * self.batch_size

    def stage(self, name: StageName) -> StageReport:
        return self.stages[STAGES.index(name)]

    def to_json(self) -> str:
        """The same report gives the same text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> FunnelReport:
        """
        Raises:
            RunError: not a funnel report, or one of another version.
        """
        try:
            value = json.loads(text)
            if value.pop("format") != FORMAT:
                raise ValueError("another version")
            return _read(cls, value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"not a funnel report of this version ({error})", fix="Make the report again.") from error


def _read(kind: Any, value: Any) -> Any:
    """`value`, as JSON gave it, as the type that a field is declared with."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{f.name: _read(hints[f.name], value[f.name]) for f in fields(kind)})  # pyright: ignore[reportCallIssue]
    if origin is tuple:
        return tuple(_read(arguments[0], v) for v in value)
    if origin in (Union, UnionType):
        return None if value is None else _read(arguments[0], value)
    if kind is float:
        return float(value)
    return value


def points(difference: Interval) -> str:
    """A difference of shares with its interval, in percentage points."""
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def control_title(control: Control) -> str:
    """What a control is, in words."""
    if control.kind == "channel":
        return f"{control.name} alone"
    return {"merge": "merged order", "prerank": "pre-ranked order"}[control.name]


def render_terminal(report: FunnelReport) -> RenderableType:
    """The report for a terminal of 80 columns or more: `rich.print(render_terminal(report))`."""
    p = report.provenance
    head = Text()
    head.append("Funnel report", style="bold")
    head.append(f"  {p.data} · {p.split} · {p.window} · {report.num_targets:,} targets of {report.num_users:,} users")
    if p.synthetic:
        head.append("  SYNTHETIC DATA", style="bold yellow")
    parts: list[RenderableType] = [head, _stage_table(report), _control_table(report)]
    ceilings = ", ".join(f"{STAGE_TITLES[c.stage].lower()} {percent(best_estimate(c))}" for c in report.ceilings)
    parts.append(Text.assemble(("Ceilings  ", "bold"), f"HR@{report.k} if one stage were perfect: {ceilings}"))
    if repeats := unreachable(report):
        parts.append(Text.assemble(("Repeats   ", "bold yellow"), repeats))
    total = report.latency[-1]
    slowest = max(report.latency[:-1], key=lambda row: row.share)
    parts.append(
        Text.assemble(
            ("Latency   ", "bold"),
            f"{total.request_p50_ms:.2f} ms a request ("
            + (f"p95 {total.request_p95_ms:.2f}, " if report.tells_p95 else "")
            + f"batches of {report.batch_size}); most of it: {slowest.stage}, {percent(slowest.share)}",
        )
    )
    return Group(*parts)


def unreachable(report: FunnelReport) -> str:
    """What is to be said of targets that the funnel may not find, as it leaves out what is in a history; else ""."""
    repeated = sum(part.count for part in report.slices if part.name == REPEATED)
    if not repeated or report.provenance.config.get("settings.exclude_seen") != "True":
        return ""
    return (
        f"{percent(repeated / report.num_targets)} of the targets are items their users had before, which this funnel "
        "never shows; --settings.exclude-seen False shows them"
    )


def best_estimate(ceiling: Ceiling) -> float:
    """A ceiling's measured value where there is one, else the projected one."""
    return ceiling.projected if ceiling.measured is None else ceiling.measured


def _stage_table(report: FunnelReport) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stage", no_wrap=True)
    table.add_column("items", justify="right", no_wrap=True)
    table.add_column("true next item still there", no_wrap=True)
    table.add_column("lost here", justify="right", no_wrap=True)
    table.add_column("of misses", justify="right", no_wrap=True)
    for stage in report.stages:
        filled = round(24 * stage.survived.value)
        bar = Text("█" * filled, style="cyan")
        bar.append("░" * (24 - filled), style="dim")
        bar.append(f" {100 * stage.survived.value:5.1f} %", style="bold")
        title = STAGE_TITLES[stage.stage]
        table.add_row(
            f"{title}, top {report.k}" if stage.stage == "rank" else title,
            f"{stage.size:,.0f}",
            bar,
            f"{100 * stage.lost_share.value:.1f} %",
            f"{100 * stage.miss_share:.1f} %",
        )
    return table


def _control_table(report: FunnelReport) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("order", no_wrap=True)
    table.add_column(f"HR@{report.k}", justify="right", no_wrap=True)
    table.add_column(f"NDCG@{report.k}", justify="right", no_wrap=True)
    table.add_column("funnel's gain, points", no_wrap=True)
    final = report.final[0]
    table.add_row("the whole funnel", percent(final.hr.value), f"{final.ndcg.value:.4f}", "", style="bold")
    for control in report.controls[::-1]:
        table.add_row(
            control_title(control), percent(control.hr.value), f"{control.ndcg.value:.4f}", _gain(control.hr_gain)
        )
    truncation, fusion = report.truncation, report.fusion
    first = f"first {truncation.size:.0f}"
    table.add_row(f"{first}, {'fused' if fusion else 'pre-ranked'}", percent(truncation.prerank.value), style="bold")
    if fusion:
        table.add_row(f"{first}, pre-ranker alone", percent(fusion.alone.value), "", _gain(fusion.gain))
    table.add_row(f"{first}, merged order", percent(truncation.plain.value), "", _gain(truncation.gain))
    return table


def _gain(gain: Interval) -> Text:
    """Green where the whole interval is above zero, red where it is below."""
    return Text(points(gain), style="green" if gain.low > 0 else "red" if gain.high < 0 else "dim")
