"""Leaks and faulty times: every check is computed from the Store and says its numbers, whether it passes or not."""

from __future__ import annotations

from dataclasses import dataclass

from penchant.evaluation.pages import percent
from penchant.evaluation.sheet.events import EVEN_GAP, EVEN_WITHIN, EventNumbers, SplitNumbers

MAX_TIED = 0.2
"""Of a user's steps, to an event of the very same time: beyond this the order is the log's rows' and not the users'."""
MAX_EVEN = 0.05
MAX_ONE_TIME = 0.05
MAX_DUPLICATES = 0.01
MAX_COLD = 0.1
MAX_REPEATS = 0.2

REASSURANCE = (
    "A check that does not hold is no reason to throw the data away: it says what a number measured on that split "
    "cannot mean."
)
"""What is said beside the checks."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what should hold.
        split: of which split; "" for the whole Store.
        count, of: how many offend, of how many.
        allowed: the share up to which it passes.
        says: what the number means, in a sentence.
    """

    name: str
    split: str
    count: int
    of: int
    allowed: float
    says: str

    @property
    def share(self) -> float:
        return self.count / max(self.of, 1)

    @property
    def passes(self) -> bool:
        return self.share <= self.allowed

    @property
    def numbers(self) -> str:
        """ "12 of 3,456 (0.3 %)" """
        part = f" ({percent(self.share)})" if self.count else ""
        return f"{self.count:,} of {self.of:,}{part}"


def store_checks(events: EventNumbers) -> list[Check]:
    """Of the Store's own times and rows; none of the times where it has none."""
    if events.gaps is None:
        return []
    total = int(events.lengths.sum())
    return [
        Check(
            "No event is in the future",
            "",
            events.future,
            total,
            0.0,
            "Events dated after the moment this sheet was made: a broken clock or a misread unit.",
        ),
        Check(
            "No event is logged twice",
            "",
            events.duplicates,
            total,
            MAX_DUPLICATES,
            "Events that repeat user, item and time of an earlier one. Repeating the last item then looks clever.",
        ),
        Check(
            "Neighbouring events have different times",
            "",
            int(events.gaps[0]),
            events.steps,
            MAX_TIED,
            "Steps to an event of the very same time: their order is that of the log's rows, perhaps no order at all.",
        ),
        Check(
            "Users' events are spread over time",
            "",
            events.one_time_users,
            events.longer_users,
            MAX_ONE_TIME,
            "Users of two events or more whose events all bear one time: a log of imports, not of actions.",
        ),
        Check(
            "Times are not evenly spaced",
            "",
            events.even,
            events.triples,
            MAX_EVEN,
            f"Events in the middle between their neighbours: both gaps over {EVEN_GAP // 60_000} minute and equal to "
            f"within {EVEN_WITHIN // 1000} second. By chance this is rare; interpolated times look like this.",
        ),
    ]


def split_checks(split: SplitNumbers, *, has_time: bool) -> list[Check]:
    """Of one split; those that need times are left out where there are none."""
    test, judged = split.windows[-1], split.windows[1:]
    targets = sum(w.targets for w in judged)
    found = [
        Check(
            "No history reaches past its target",
            split.name,
            sum(w.late for w in judged),
            targets,
            0.0,
            "Targets, in all judged windows, whose history holds an event that comes after them.",
        )
    ]
    if has_time:
        found += _time_checks(split, targets)
    return [
        *found,
        Check(
            "Test items were seen in training",
            split.name,
            split.cold_targets,
            test.targets,
            MAX_COLD,
            "Test targets whose item has no training event. Only content can find them.",
        ),
        Check(
            "Test targets are new to their users",
            split.name,
            split.repeats,
            test.targets,
            MAX_REPEATS,
            "Test targets that their user's history holds already. Where many do, repeating the history is a strong "
            "list, and a funnel that leaves out what was seen cannot find them.",
        ),
    ]


def _time_checks(split: SplitNumbers, targets: int) -> list[Check]:
    train, judged = split.windows[0], split.windows[1:]
    found = [
        Check(
            "No history holds its target's moment",
            split.name,
            sum(w.tied for w in judged),
            targets,
            MAX_TIED,
            "Targets whose history ends with an event of the very same time: what came first is the log's guess.",
        ),
        Check(
            "Training ends before the test begins",
            split.name,
            split.train_late,
            train.events,
            0.0,
            "Training events at or after the first test event: counts and neighbours learned from them know the future "
            "of some test targets.",
        ),
        Check(
            "No moment is cut in two",
            split.name,
            split.tied_crossings,
            split.crossings,
            0.0,
            "Neighbouring events of a user on two sides of a cut that bear the very same time.",
        ),
    ]
    if split.late_requests is not None:
        found.append(
            Check(
                "No impression of the test's time is trained on",
                split.name,
                split.late_requests,
                sum(w.requests or 0 for w in split.windows[:-1]),
                0.0,
                "Requests of the earlier windows dated at or after the start of the test window.",
            )
        )
    return found
