"""Users' histories at serving: those of the bundle with what the event log has since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penchant.data.history import Requests, make_requests
from penchant.errors import PenchantError
from penchant.serve.bundle import Bundle
from penchant.serve.events import Event, EventLog


class UnknownItemError(PenchantError):
    """An item id that is not in the catalogue."""

    def __init__(self, item_id: str, where: str) -> None:
        self.item_id = item_id
        self.where = where
        super().__init__(
            f"item {item_id!r} is not in the catalogue", where=where, fix="Send an id of the exported items."
        )


@dataclass(frozen=True)
class Histories:
    """Users' histories: those of the bundle, then what the log has, in order of time.

    Attributes:
        max_len: actions of a history that are kept, the last ones.
    """

    bundle: Bundle
    log: EventLog
    max_len: int

    def append(self, events: Sequence[Event]) -> int:
        """Log events; all or none. Returns how many were new.

        Raises:
            UnknownItemError: an item is not in the catalogue.
        """
        for place, event in enumerate(events):
            if not self.bundle.item_of(event.item_id):
                raise UnknownItemError(event.item_id, f"events.{place}.item_id")
        return self.log.append(events)

    def of_user(self, user_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Items and times of the last `max_len` actions, oldest first. Empty for a user nobody has seen.

        An item that was logged under an earlier bundle and is in no more is passed over. So is an action that the
        bundle's history has too (the same item at the same time): the shop's log, from which the bundle was made, has
        by then what the event log has. Where the bundle has no times, the log's actions come after all of its own.
        """
        items, times = self.bundle.history(self.bundle.user_of(user_id))
        logged = [(self.bundle.item_of(item), ts_ms) for item, ts_ms in self.log.last(user_id, self.max_len)]
        if not self.bundle.has_time:  # the log's times say nothing beside the bundle's places in an order
            logged = [(item, place) for place, (item, _) in enumerate(logged, _next(times))]
        if not logged:
            return items[-self.max_len :], times[-self.max_len :]
        # Of the bundle's, oldest first, only what is no older than the log's can be the same action.
        recent = slice(int(np.searchsorted(times, min(ts_ms for _, ts_ms in logged))), None)
        exported = set(zip(items[recent].tolist(), times[recent].tolist(), strict=True))
        logged = [(item, ts_ms) for item, ts_ms in logged if item and (item, ts_ms) not in exported]
        items = np.concatenate([items, np.array([i for i, _ in logged], dtype=items.dtype)])
        times = np.concatenate([times, np.array([t for _, t in logged], dtype=times.dtype)])
        # An event may come late; at equal times the bundle's are the earlier ones.
        order = np.argsort(times, kind="stable")[-self.max_len :]
        return items[order], times[order]

    def request(self, user_id: str, now_ms: int, query: str | None = None) -> Requests:
        """A request of this user, built as training builds its own."""
        items, times = self.of_user(user_id)
        return self.request_with(items, times, now_ms, self.bundle.user_of(user_id), query)

    def request_with(
        self, items: np.ndarray, times: np.ndarray, now_ms: int, user: int = 0, query: str | None = None
    ) -> Requests:
        """A request whose history is given; never earlier than its last action, and right after it without times."""
        at = max(now_ms, int(times[-1]) if len(times) else 0) if self.bundle.has_time else _next(times)
        ends = np.array([len(items)])
        queries = None if query is None else (query,)
        return make_requests(np.array([user]), np.array([at]), items, times, np.array([0]), ends, self.max_len, queries)


def _next(places: np.ndarray) -> int:
    """The place after the last of an order."""
    return int(places[-1]) + 1 if len(places) else 0
