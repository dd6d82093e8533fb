"""What the server does, apart from HTTP: lists, searches, events and histories as plain dictionaries (schemas.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote

import numpy as np
import torch

from penchant.data.schema import FIRST_MS
from penchant.errors import ConfigError, PenchantError
from penchant.funnel.pipeline import Trace
from penchant.funnel.retrieve import CategoryRetriever
from penchant.funnel.stages import Candidates, Requests
from penchant.index.lexical import SEARCH_POOL, Matches
from penchant.serve.bundle import Bundle
from penchant.serve.events import Event, EventLog
from penchant.serve.histories import Histories, UnknownItemError

MAX_AHEAD_MS = 60_000
"""How far a sender's clock may be ahead."""

BY_ID = "item id"
"""How a search matched whose query is an item's id."""


class FieldError(PenchantError):
    """A field of a request whose value cannot be answered."""

    def __init__(self, field: str, value: str | int | float | None, problem: str, fix: str) -> None:
        self.field, self.value, self.problem, self.fix = field, value, problem, fix
        super().__init__(f"{problem} ({value!r})", where=field, fix=fix)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


@runtime_checkable
class InterestTeller(Protocol):
    """Tells what a vector says, from the vector alone."""

    @property
    def reads_queries(self) -> bool: ...

    def tell(self, requests: Requests, k: int) -> tuple[str, list[int]]:
        """Of one request with a history: words, and the nearest items, best first."""
        ...


class Service:
    """A bundle and its event log, ready to answer. Safe to use from many threads.

    Args:
        now_ms: the clock; a test gives its own.
        reader: tells interests in words, if any.
    """

    def __init__(
        self,
        bundle: Bundle,
        log: EventLog,
        now_ms: Callable[[], int] = wall_ms,
        *,
        reader: InterestTeller | None = None,
    ) -> None:
        self.bundle = bundle
        self.settings = bundle.funnel.settings
        self.log = log
        self._reader = reader
        self.histories = Histories(bundle, log, self.settings.max_history)
        self._now_ms = now_ms
        self._funnels = {flag: bundle.funnel.with_exclude_seen(flag) for flag in (False, True)}
        # Built before the first request, not by it.
        _ = bundle.lexical, bundle.item_of(""), bundle.user_of("")
        sample = np.flatnonzero(np.diff(bundle.history_indptr))
        self._users_with_history = [bundle.user_ids[u] for u in sample]

    def recommend(
        self,
        user_id: str | None,
        history: Sequence[str] | None,
        k: int | None,
        exclude_seen: bool | None,
        explain: bool,
    ) -> dict[str, Any]:
        """A list for a user, for a history, or for nobody.

        Raises:
            FieldError: both a user and a history; k larger than what reaches the ranker.
            UnknownItemError: an item of `history` is not in the catalogue.
        """
        start = time.perf_counter()
        k = self._bounded(k)
        requests = self._requests(user_id, history)
        timing = {"history": _ms(start)}
        exclude_seen = bool(self.settings.exclude_seen) if exclude_seen is None else exclude_seen
        trace = self._funnels[exclude_seen].run(requests)
        new = bool(trace.without_history[0])
        timing |= {name: round(1000 * s, 3) for name, s in trace.seconds.items()}
        items = self._items(trace.ranked.top(k))
        if self.bundle.calibration is not None and not new:
            chances = self.bundle.calibration(np.array([item["score"] for item in items], dtype=np.float64))
            for item, chance in zip(items, chances.tolist(), strict=True):
                item["chance"] = chance
        if explain:
            self._explain(items, trace)
        timing["total"] = _ms(start)
        unseen = " that the history does not hold" if exclude_seen and not new else ""
        return {
            "items": items,
            "served": "popular (new user)" if new else "personal",
            "reason": f"the channels found no more items{unseen}" if len(items) < k else None,
            "timing_ms": timing,
        }

    def search(self, query: str, user_id: str | None, k: int | None) -> dict[str, Any]:
        """Items whose words match, in the ranker's order for a user with a history, else by text match.

        All that match have all words of the query where any item has; the ranker then orders the best `SEARCH_POOL` of
        them by this user's interest alone, so text decides what is in the list and the user decides the order. An item
        whose id the query is stands first.
        """
        start = time.perf_counter()
        k = self._bounded(k)
        found = self._matches(query)
        timing = {"match": _ms(start)}
        if not len(found.items):
            timing["total"] = _ms(start)
            reason = "no item's id, title, category or text has any of these words, or one spelled much alike"
            return {"items": [], "served": "text match", "reason": reason, "matched": "nothing", "timing_ms": timing}
        requests = self._requests(user_id, None, query)
        middle = time.perf_counter()
        ordered = self._funnels[False].order(requests, torch.from_numpy(found.items)[None])
        timing["order"] = _ms(middle)
        personal = bool(requests.lengths[0]) and self._funnels[False].has_scorer
        text_rank = {int(item): place for place, item in enumerate(found.items, start=1)}
        named = found.matched == BY_ID
        items = self._items(ordered if named else ordered.top(k))
        for item, number in zip(items, ordered.items[0].tolist(), strict=False):
            item["text_rank"] = text_rank[number]
            if not personal:
                item["score"] = float(found.scores[item["text_rank"] - 1])
        if named:
            items.sort(key=lambda item: item["text_rank"] != 1)
            items = [{**item, "rank": rank} for rank, item in enumerate(items[:k], start=1)]
        timing["total"] = _ms(start)
        reason = f"no more items match by {found.matched}"
        if len(found.items) == SEARCH_POOL:
            reason = f"a search lists the {SEARCH_POOL} best matches and no more"
        return {
            "items": items,
            "served": f"personal (the ranker's order of the {len(found.items)} best text matches)"
            if personal
            else "text match",
            "reason": reason if len(items) < k else None,
            "matched": found.matched,
            "timing_ms": timing,
        }

    def _matches(self, query: str) -> Matches:
        """The items whose words match, behind the one whose id it is.

        Ids are no words of the index: by parts of them ("sku") a search would find the whole catalogue.
        """
        found = self.bundle.lexical.search(query, SEARCH_POOL)
        item = self.bundle.item_of(query.strip())
        if not item:
            return found
        others = found.items != item
        scores = np.append(found.scores.max(initial=1.0), found.scores[others])
        return Matches(np.append(item, found.items[others]), scores, BY_ID)

    def append(self, events: Sequence[dict[str, Any]]) -> dict[str, int]:
        """Log events; the next request sees them.

        Raises:
            UnknownItemError: an item is not in the catalogue; nothing is logged.
            FieldError: an event from the future, or, where the bundle has times, from before 1990.
        """
        now = self._now_ms()
        # Without times the log's own tell an order alone, so that any numbers will do.
        first = FIRST_MS if self.bundle.has_time else 0
        for place, event in enumerate(events):
            ts_ms = now if event["ts_ms"] is None else event["ts_ms"]
            if not first <= ts_ms <= now + MAX_AHEAD_MS:
                problem = "is before 1990; ts_ms is milliseconds" if ts_ms < first else "lies in the future"
                fix = "Send milliseconds since 1970 UTC, or leave ts_ms out."
                raise FieldError(f"events.{place}.ts_ms", ts_ms, problem, fix)
        new = self.histories.append(
            [Event(**{**e, "ts_ms": now if e["ts_ms"] is None else e["ts_ms"]}) for e in events]
        )
        return {"accepted": new, "repeated": len(events) - new}

    def history(self, user_id: str, limit: int) -> dict[str, Any]:
        """A user's history, newest first."""
        items, times = self.histories.of_user(user_id)
        newest = zip(items[::-1][:limit].tolist(), times[::-1][:limit].tolist(), strict=True)
        return {
            "user_id": user_id,
            "known": len(items) > 0,
            "length": len(items),
            "history": [
                {**self._card(item), "ts_ms": ts_ms if self.bundle.has_time else None} for item, ts_ms in newest
            ],
        }

    @property
    def reads(self) -> bool:
        """Whether interests can be told in words."""
        return self._reader is not None

    def interest(
        self, user_id: str | None, history: Sequence[str] | None, query: str | None, k: int | None
    ) -> dict[str, Any]:
        """What a vector says: words told from it alone, and the nearest items. Empty without a history and a query.

        Raises:
            FieldError: both a user and a history; a query for a model that reads none.
            UnknownItemError: an item of `history` is not in the catalogue.
        """
        assert self._reader is not None
        start = time.perf_counter()
        if query is not None and not self._reader.reads_queries:
            raise FieldError("query", query, "the model reads no queries", "Leave it out.")
        requests = self._requests(user_id, history, query)
        asked = query is not None or int(requests.lengths[0]) > 0
        words, nearest = self._reader.tell(requests, self._bounded(k)) if asked else ("", [])
        return {
            "words": words,
            "nearest": [self._card(item) for item in nearest],
            "reason": None if asked else "there is no history to read",
            "timing_ms": {"total": _ms(start)},
        }

    def users(self, limit: int) -> dict[str, Any]:
        """Users with a history, evenly spread over the table."""
        have = self._users_with_history
        places = np.unique(np.linspace(0, len(have) - 1, min(limit, len(have))).astype(int)) if have else []
        return {"users": [have[p] for p in places], "total": self.bundle.num_users}

    def item(self, item_id: str) -> dict[str, Any]:
        """An item of the catalogue.

        Raises:
            UnknownItemError: it is not in the catalogue.
        """
        item = self._known(item_id, "item_id")
        return {**self._card(item), "text": self.bundle.texts[item]}

    def thumbnail(self, item_id: str) -> bytes | None:
        """Its picture as JPEG.

        Raises:
            UnknownItemError: it is not in the catalogue.
        """
        return self.bundle.thumbnail(self._known(item_id, "item_id"))

    def health(self) -> dict[str, Any]:
        return {
            "status": "ok",
            "items": self.bundle.num_items,
            "users": self.bundle.num_users,
            "channels": [c.name for c in self.settings.channels],
            "list_size": self.settings.list_size,
            "max_k": self.settings.preranked_size,
            "synthetic": self.bundle.is_synthetic,
            "reads": self.reads,
            "reads_queries": self._reader is not None and self._reader.reads_queries,
            "pictures": self.bundle.has_pictures,
            "data": self.bundle.manifest["store"]["name"],
        }

    def _requests(self, user_id: str | None, history: Sequence[str] | None, query: str | None = None) -> Requests:
        now = self._now_ms()
        if user_id is not None and history is not None:
            given = f"list of {len(history)}"
            raise FieldError("history", given, "a user_id and a history were given", "Send one of the two.")
        if user_id is not None:
            return self.histories.request(user_id, now, query)
        items = np.array([self._known(i, f"history.{p}") for p, i in enumerate(history or ())], dtype=np.int32)
        times = np.full(len(items), now) if self.bundle.has_time else np.arange(len(items))
        return self.histories.request_with(items, times, now, query=query)

    def _bounded(self, k: int | None) -> int:
        most = self.settings.preranked_size
        if k is not None and k > most:
            problem = f"only {most} candidates reach the ranker"
            raise FieldError("k", k, problem, f"Ask for {most} or fewer, or export a funnel of larger preranked_size.")
        return k or self.settings.list_size

    def _known(self, item_id: str, where: str) -> int:
        item = self.bundle.item_of(item_id)
        if not item:
            raise UnknownItemError(item_id, where)
        return item

    def _card(self, item: int) -> dict[str, Any]:
        item_id = self.bundle.item_ids[item]
        has_picture = self.bundle.has_thumbnail(item)
        return {
            "id": item_id,
            "title": self.bundle.titles[item] or item_id,
            "category": self.bundle.category_paths[item],
            "thumbnail": f"/v1/thumbnails/{quote(item_id, safe='')}" if has_picture else None,
        }

    def _items(self, candidates: Candidates) -> list[dict[str, Any]]:
        """The first request's items."""
        rows = zip(
            candidates.items[0].tolist(), candidates.scores[0].tolist(), candidates.ranks[0].tolist(), strict=True
        )
        return [
            {
                **self._card(item),
                "score": score,
                "rank": rank,
                "channels": {c: r for c, r in zip(candidates.channels, ranks, strict=True) if r},
            }
            for rank, (item, score, ranks) in enumerate(rows, start=1)
            if item
        ]

    def _explain(self, items: list[dict[str, Any]], trace: Trace) -> None:
        """Add each item's place after every stage, and its channels' raw scores."""
        places = {
            name: {item: p for p, item in enumerate(stage.items[0].tolist(), start=1)}
            for name, stage in (("merged", trace.merged), ("preranked", trace.preranked), ("ranked", trace.ranked))
        }
        final = zip(items, trace.ranked.items[0].tolist(), trace.ranked.channel_scores[0].tolist(), strict=False)
        for item, number, scores in final:
            by_channel = zip(trace.ranked.channels, scores, strict=True)
            item["channel_scores"] = {c: s for c, s in by_channel if c in item["channels"]}
            item["stages"] = {name: place[number] for name, place in places.items()}


def set_deadline(bundle: Bundle, deadline_ms: float) -> None:
    """Channels that search category by category (`CategoryRetriever`) begin no further one so long after a request.

    Raises:
        ConfigError: a deadline of 0 or less, or a bundle without such a channel.
    """
    if not deadline_ms > 0:
        raise ConfigError(f"deadline_ms is {deadline_ms}", fix="Set a time above 0, or leave it out.")
    by_category = [channel for channel in bundle.funnel.retrievers if isinstance(channel, CategoryRetriever)]
    if not by_category:
        what = "deadline_ms bounds channels that search category by category, and this bundle has none"
        raise ConfigError(what, where=bundle.path, fix="Leave it out.")
    for channel in by_category:
        channel.deadline_ms = deadline_ms


def _ms(since: float) -> float:
    return round(1000 * (time.perf_counter() - since), 3)
