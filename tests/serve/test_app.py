"""The HTTP server: what it answers, what it refuses and how, and what it never says."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from penchant.data.history import Requests
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.funnel.calibration import ScoreCalibration
from penchant.funnel.retrieve import CategoryRetriever, retriever
from penchant.models import Sizes
from penchant.papers.ulim.model import ULIM, ULIMConfig
from penchant.serve import schemas
from penchant.serve.app import MAX_READING, create_app
from penchant.serve.bundle import Bundle
from penchant.serve.events import EventLog
from penchant.serve.export import export
from penchant.serve.histories import Histories
from penchant.serve.service import Service, set_deadline
from tests.serve.conftest import NOW_MS, post, problem


def test_the_list_is_the_funnels_own(client: TestClient, bundle: Bundle, tmp_path: Path) -> None:
    for user in ("u1", "u7", "stranger"):
        requests = Histories(bundle, EventLog(tmp_path / "log"), 25).request(user, NOW_MS)
        expected = bundle.funnel.recommend(requests, 20)
        items = post(client, "recommend", user_id=user, k=20)["items"]
        assert [bundle.item_of(item["id"]) for item in items] == expected.items[0].tolist()
        assert [item["score"] for item in items] == expected.scores[0].tolist()
        for item, ranks in zip(items, expected.ranks[0].tolist(), strict=True):
            assert item["channels"] == {c: r for c, r in zip(expected.channels, ranks, strict=True) if r}


def test_an_item_carries_what_a_page_needs(client: TestClient, bundle: Bundle) -> None:
    answer = post(client, "recommend", user_id="u1")
    assert len(answer["items"]) == 10
    assert [item["rank"] for item in answer["items"]] == list(range(1, 11))
    for item in answer["items"]:
        number = bundle.item_of(item["id"])
        assert item["title"] == bundle.titles[number]
        assert item["category"] == bundle.category_paths[number]
        assert (item["thumbnail"] is not None) == bundle.has_thumbnail(number)
        assert item["channels"]
    assert answer["served"] == "personal"
    assert answer["reason"] is None
    stages = [
        "history",
        "retrieve:markov",
        "retrieve:sasrec",
        "retrieve:popularity",
        "merge",
        "prerank",
        "fuse",
        "rank",
        "total",
    ]
    assert list(answer["timing_ms"]) == stages


def test_unknown_and_anonymous_visitors_get_the_popular_list(client: TestClient, bundle: Bundle) -> None:
    counts = bundle.funnel.retrievers[2].model.counts  # type: ignore[attr-defined]
    for who in ({"user_id": "stranger"}, {}, {"history": []}):
        answer = post(client, "recommend", k=5, **who)
        assert answer["served"] == "popular (new user)"
        shown = [int(counts[bundle.item_of(item["id"])]) for item in answer["items"]]
        assert shown == sorted(counts.tolist(), reverse=True)[:5]


def test_the_next_request_sees_an_event(client: TestClient) -> None:
    before = post(client, "recommend", user_id="stranger")
    assert post(client, "events", events=[{"user_id": "stranger", "item_id": "i5"}]) == {"accepted": 1, "repeated": 0}
    after = post(client, "recommend", user_id="stranger")
    assert after["served"] == "personal"
    assert after["items"] != before["items"]
    history = post(client, "history", user_id="stranger")
    assert [(item["id"], item["ts_ms"]) for item in history["history"]] == [("i5", NOW_MS)]


def test_a_history_in_the_request_is_answered_as_the_same_history_of_a_user(client: TestClient) -> None:
    post(client, "events", events=[{"user_id": "stranger", "item_id": i} for i in ("i5", "i13", "i21")])
    given = post(client, "recommend", history=["i5", "i13", "i21"])
    assert given["items"] == post(client, "recommend", user_id="stranger")["items"]


def test_without_times_both_are_answered_alike_and_no_time_is_told(bundle: Bundle, tmp_path: Path) -> None:
    untimed = replace(bundle, manifest={**bundle.manifest, "has_time": False})
    service = Service(untimed, EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS)
    with TestClient(create_app(service, workers=1)) as client:
        post(client, "events", events=[{"user_id": "stranger", "item_id": i} for i in ("i5", "i13", "i21")])
        given = post(client, "recommend", history=["i5", "i13", "i21"])
        assert given["items"] == post(client, "recommend", user_id="stranger")["items"]
        told = post(client, "history", user_id="stranger")
        assert [(item["id"], item["ts_ms"]) for item in told["history"]] == [("i21", None), ("i13", None), ("i5", None)]
        schemas.HistoryOutput.model_validate(told)


def test_a_repeated_event_is_kept_once(client: TestClient) -> None:
    event = {"user_id": "u1", "item_id": "i5", "action": "buy", "event_id": "e-1"}
    assert post(client, "events", events=[event]) == {"accepted": 1, "repeated": 0}
    assert post(client, "events", events=[event]) == {"accepted": 0, "repeated": 1}


def test_seen_items_are_left_out_when_asked(client: TestClient) -> None:
    seen = {item["id"] for item in post(client, "history", user_id="u1")["history"]}
    ids = {item["id"] for item in post(client, "recommend", user_id="u1", k=20, exclude_seen=True)["items"]}
    assert not ids & seen
    assert {item["id"] for item in post(client, "recommend", user_id="u1", k=20, exclude_seen=False)["items"]} & seen


def test_who_has_seen_everything_gets_a_reason_and_no_error(client: TestClient, bundle: Bundle, tmp_path: Path) -> None:
    settings = replace(bundle.funnel.settings, max_history=200)
    funnel = type(bundle.funnel)(bundle.funnel.retrievers, bundle.funnel.prerank, bundle.funnel.rank, settings)
    service = Service(replace(bundle, funnel=funnel), EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS)
    answer = service.recommend(None, bundle.item_ids[1:], 5, True, False)
    assert answer["items"] == []
    assert answer["reason"] == "the channels found no more items that the history does not hold"


def test_a_small_catalogue_is_not_blamed_on_the_history(bundle: Bundle, tmp_path: Path) -> None:
    settings = replace(bundle.funnel.settings, merged_size=200, preranked_size=200)
    funnel = type(bundle.funnel)(bundle.funnel.retrievers, bundle.funnel.prerank, bundle.funnel.rank, settings)
    service = Service(replace(bundle, funnel=funnel), EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS)
    for history, exclude_seen in ((["i1"], False), ([], True), (None, True)):
        answer = service.recommend(None, history, 90, exclude_seen, False)
        assert answer["reason"] == "the channels found no more items"


def test_the_bound_of_a_search_is_not_told_as_the_number_of_matches(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(bundle, EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS)
    assert service.search("thing 40", None, 20)["reason"] == "no more items match by all words"
    monkeypatch.setattr("penchant.serve.service.SEARCH_POOL", 5)
    assert service.search("red blue", None, 20)["reason"] == "a search lists the 5 best matches and no more"
    assert service.search("red blue", None, 5)["reason"] is None


def test_a_deadline_reaches_the_channels_that_search_by_category(bundle: Bundle) -> None:
    sizes = Sizes(num_items=bundle.num_items, num_categories=2)
    ulim = ULIM(ULIMConfig(width=8, heads=2), sizes).eval()
    ulim.set_categories(torch.arange(bundle.num_items + 1) % 2 + 1)
    plain = bundle.funnel
    of = {channel.name: channel for channel in plain.retrievers} | {"sasrec": retriever("sasrec", ulim)}
    funnel = type(plain)(list(of.values()), None, None, plain.settings)
    set_deadline(replace(bundle, funnel=funnel), 7.5)
    channel = of["sasrec"]
    assert isinstance(channel, CategoryRetriever)
    assert channel.deadline_ms == 7.5
    with pytest.raises(ConfigError, match="deadline_ms is 0"):
        set_deadline(replace(bundle, funnel=funnel), 0)
    with pytest.raises(ConfigError, match="this bundle has none"):
        set_deadline(bundle, 7.5)


class Parrot:
    """Tells the number of actions it was given."""

    reads_queries = True

    def tell(self, requests: Requests, k: int) -> tuple[str, list[int]]:
        typed = requests.queries[0] if requests.queries else "nothing"
        return f"{int(requests.lengths[0])} actions and {typed}", list(range(1, k + 1))


def test_interests_are_told_where_a_reader_was_loaded(bundle: Bundle, tmp_path: Path, client: TestClient) -> None:
    assert client.get("/healthz").json()["reads"] is False
    refused = client.post("/v1/interest", json={"user_id": "u1"})
    assert refused.status_code == 404
    assert "penchant serve --read" in refused.json()["errors"][0]["fix"]
    service = Service(bundle, EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS, reader=Parrot())
    with TestClient(create_app(service, workers=1)) as reading:
        assert reading.get("/healthz").json()["reads"] is reading.get("/healthz").json()["reads_queries"] is True
        told = post(reading, "interest", history=bundle.item_ids[1:4], k=2)
        assert told["words"] == "3 actions and nothing"
        assert [item["id"] for item in told["nearest"]] == bundle.item_ids[1:3]
        assert post(reading, "interest", user_id="u1", query="red")["words"].endswith("and red")
        assert post(reading, "interest", user_id="nobody")["reason"] == "there is no history to read"
        alone = post(reading, "interest", user_id="nobody", query="red")
        assert (alone["words"], alone["reason"]) == ("0 actions and red", None)
        problem(reading, "interest", user_id="u1", k=21)
        problem(reading, "interest", user_id="u1", words=True)


def test_of_many_who_want_to_be_read_some_are_sent_away(bundle: Bundle, tmp_path: Path) -> None:
    """And lists are made meanwhile."""
    going, begun = threading.Event(), threading.Event()

    class Slow(Parrot):
        def tell(self, requests: Requests, k: int) -> tuple[str, list[int]]:
            begun.set()
            assert going.wait(20)
            return super().tell(requests, k)

    service = Service(bundle, EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS, reader=Slow())
    with TestClient(create_app(service, workers=1)) as client, ThreadPoolExecutor(8) as people:
        asked = [people.submit(client.post, "/v1/interest", json={"user_id": "u1"}) for _ in range(MAX_READING + 2)]
        assert begun.wait(20)
        assert post(client, "recommend", user_id="u1", k=3)["items"]
        while sum(one.done() for one in asked) < 2:  # those who are sent away do not wait
            time.sleep(0.01)
        going.set()
        statuses = sorted(one.result().status_code for one in asked)
    assert statuses == [200] * MAX_READING + [503] * 2


def test_explain_gives_places_after_every_stage(client: TestClient) -> None:
    assert "stages" not in post(client, "recommend", user_id="u1")["items"][0]
    items = post(client, "recommend", user_id="u1", explain=True, k=20)["items"]
    assert [item["stages"]["ranked"] for item in items] == list(range(1, 21))
    assert sorted(item["stages"]["preranked"] for item in items) == list(range(1, 21))
    assert all(item["channel_scores"].keys() == item["channels"].keys() for item in items)


def test_a_calibrated_bundle_tells_chances(run_folder: Path, store: Store, tmp_path: Path) -> None:
    """Of lists with a history alone, in the scores' order; the list is the same without."""
    calibration = ScoreCalibration("temperature", slope=2.0, offset=-3.0)
    export(run_folder, store, tmp_path / "bundle", calibration)
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.calibration == calibration
    service = Service(bundle, EventLog(tmp_path / "events.sqlite"), now_ms=lambda: NOW_MS)
    with TestClient(create_app(service, workers=1)) as client:
        items = post(client, "recommend", user_id=bundle.user_ids[1], k=5)["items"]
        expected = [1 / (1 + np.exp(3.0 - 2.0 * item["score"])) for item in items]
        assert [item["chance"] for item in items] == pytest.approx(expected)
        assert all("chance" not in item for item in post(client, "recommend", k=5)["items"])


def test_a_search_gives_matches_only_in_the_rankers_order(client: TestClient, bundle: Bundle) -> None:
    anonymous = post(client, "search", query="red thing", k=20)
    personal = post(client, "search", query="red thing", k=20, user_id="u1")
    assert anonymous["served"] == "text match"
    assert [item["text_rank"] for item in anonymous["items"]] == list(range(1, len(anonymous["items"]) + 1))
    assert anonymous["matched"] == "all words"
    assert personal["served"].startswith("personal")
    assert {item["id"] for item in personal["items"]} == {item["id"] for item in anonymous["items"]}
    assert personal["items"] != anonymous["items"]
    scores = [item["score"] for item in personal["items"]]
    assert scores == sorted(scores, reverse=True)
    for item in personal["items"]:
        assert "red" in (bundle.titles[bundle.item_of(item["id"])] or "")


@pytest.mark.parametrize("user", ["u1", None])
def test_a_search_for_an_id_finds_the_item_first(bundle: Bundle, tmp_path: Path, user: str | None) -> None:
    titles = [f"thing like {i}" if i in ("i7", "i9") else None for i in bundle.item_ids]
    service = Service(replace(bundle, titles=titles), EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS)
    found = service.search(" i5 ", user, 3)  # it has no title, and no other item has the word
    assert ([item["id"] for item in found["items"]], found["matched"]) == (["i5"], "item id")
    both = service.search("i7", user, 3)
    assert both["items"][0]["id"] == "i7"
    assert [item["rank"] for item in both["items"]] == list(range(1, len(both["items"]) + 1))
    assert len({item["id"] for item in both["items"]}) == len(both["items"])
    assert service.search("i7", user, 1)["items"] == both["items"][:1]
    assert service.search("i99", user, 3)["matched"] != "item id"


def test_a_search_without_a_match_says_so(client: TestClient) -> None:
    answer = post(client, "search", query="zebra", user_id="u1")
    assert answer["items"] == []
    assert answer["matched"] == "nothing"
    assert "no item" in answer["reason"]


def test_a_large_body_is_refused_before_it_is_parsed(client: TestClient) -> None:
    def parts() -> Iterator[bytes]:  # of unknown length
        for _ in range(20):
            yield b" " * (schemas.MAX_BODY_BYTES // 16)

    for content in (b" " * (schemas.MAX_BODY_BYTES + 1), parts()):
        answer = client.post("/v1/recommend", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert str(schemas.MAX_BODY_BYTES) in answer.json()["errors"][0]["problem"]


def test_lists_are_made_while_the_event_log_is_locked(client: TestClient, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "events.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as people:
        kept = people.submit(post, client, "events", events=[{"user_id": "u1", "item_id": "i5"}])
        time.sleep(0.2)  # it has begun to wait
        assert post(client, "recommend", user_id="u1", k=3)["items"]
        assert not kept.done()
        other.execute("ROLLBACK")
        assert kept.result() == {"accepted": 1, "repeated": 0}
    other.close()


def test_events_that_cannot_be_written_now_may_be_sent_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penchant.serve.events.BUSY_SECONDS", 0.01)
    service = Service(bundle, EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS)
    other = sqlite3.connect(tmp_path / "log", isolation_level=None)
    with TestClient(create_app(service, workers=1)) as client:
        other.execute("BEGIN IMMEDIATE")
        answer = client.post("/v1/events", json={"events": [{"user_id": "u1", "item_id": "i5"}]})
        assert answer.status_code == 503
        (error,) = answer.json()["errors"]
        assert (error["field"], error["fix"]) == ("events", "Send them again in a second.")
        other.execute("ROLLBACK")
        assert post(client, "events", events=[{"user_id": "u1", "item_id": "i5"}]) == {"accepted": 1, "repeated": 0}
    other.close()


def test_events_that_a_full_disk_does_not_take_are_refused_and_the_log_says_why(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(bundle, EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS)
    full = service.log._db
    full.execute(f"PRAGMA max_page_count={full.execute('PRAGMA page_count').fetchone()[0]}")
    events = [{"user_id": f"secret{n}" * 20, "item_id": "i5"} for n in range(200)]
    with TestClient(create_app(service, workers=1)) as client:
        answer = client.post("/v1/events", json={"events": events})
        assert answer.status_code == 503
        (error,) = answer.json()["errors"]
        assert (error["field"], error["fix"][:15]) == ("events", "Send them again")
        assert "log: cannot be written (database or disk is full)" in caplog.text
        assert "secret" not in caplog.text + answer.text
        assert len(service.log) == 0


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/v1/events", 405)])
def test_unknown_paths_and_methods_are_answered_in_the_same_form(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["errors"][0]["fix"]


def test_items_and_their_pictures(client: TestClient, bundle: Bundle) -> None:
    assert client.get("/v1/items/i2").json() == {
        "id": "i2",
        "title": bundle.titles[2],
        "category": bundle.category_paths[2],
        "text": bundle.texts[2],
        "thumbnail": "/v1/thumbnails/i2",
    }
    picture = client.get("/v1/thumbnails/i2")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content == bundle.thumbnail(2)
    for path in ("items/i999", "thumbnails/i999", "thumbnails/i1"):  # the first item has no picture
        answer = client.get(f"/v1/{path}")
        assert answer.status_code == 404
        assert answer.json()["errors"][0]["value"] == path.split("/")[1]


def test_sample_users_have_histories(client: TestClient) -> None:
    answer = client.get("/v1/users", params={"limit": 7}).json()
    assert answer["total"] == 60
    assert len(set(answer["users"])) == 7
    assert all(post(client, "history", user_id=user)["known"] for user in answer["users"])
    assert client.get("/v1/users", params={"limit": 101}).json()["errors"][0]["field"] == "limit"


def test_ids_may_hold_any_character(client: TestClient) -> None:
    strange = "a/b?c#d é%20"
    post(client, "events", events=[{"user_id": strange, "item_id": "i5"}])
    answer = post(client, "history", user_id=strange)
    assert (answer["user_id"], answer["length"]) == (strange, 1)


def test_health_says_what_is_served(client: TestClient) -> None:
    answer = client.get("/healthz").json()
    assert answer == schemas.HealthOutput(**answer).model_dump()
    assert (answer["status"], answer["items"], answer["users"], answer["synthetic"]) == ("ok", 80, 60, False)


def test_a_shop_without_pictures_gets_no_boxes_for_them(client: TestClient, bundle: Bundle, tmp_path: Path) -> None:
    assert client.get("/healthz").json()["pictures"] is True
    bare = replace(bundle, thumbnails=None, thumbnail_indptr=None)
    with TestClient(create_app(Service(bare, EventLog(tmp_path / "log")), workers=1)) as other:
        assert other.get("/healthz").json()["pictures"] is False
        assert ".no-pictures .picture { display: none; }" in other.get("/console/style.css").text
        assert 'toggle("no-pictures", !health.pictures)' in other.get("/console/app.js").text


def test_answers_are_as_openapi_says(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    described_statuses = set(described["paths"]["/v1/recommend"]["post"]["responses"])
    assert described_statuses == {"200", "403", "408", "413", "422", "500"}
    assert described["components"]["schemas"]["RecommendInput"]["examples"]
    schemas.RecommendOutput.model_validate(post(client, "recommend", user_id="u1", explain=True))
    schemas.SearchOutput.model_validate(post(client, "search", query="red"))
    schemas.HistoryOutput.model_validate(post(client, "history", user_id="u1"))
    schemas.ItemDetail.model_validate(client.get("/v1/items/i1").json())


def test_the_page_works_offline_and_under_a_strict_policy(client: TestClient) -> None:
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    for name in ("style.css", "app.js", "icon.svg"):
        part = client.get(f"/console/{name}")
        assert part.status_code == 200
        assert f"/console/{name}" in page.text
        for text in (page.text, part.text.replace("http://www.w3.org/2000/svg", "")):
            assert "http://" not in text
            assert "https://" not in text
            assert "innerHTML" not in text
            assert "style=" not in text
            assert "onclick=" not in text
    assert client.get("/console/..%2Fapp.py").status_code == 404
    assert client.get("/docs").status_code == 404  # its scripts come from elsewhere


def test_the_log_names_routes_and_no_user_item_or_query(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(bundle, EventLog(tmp_path / "log"))
    with TestClient(create_app(service, workers=1)) as client, caplog.at_level(logging.INFO, "penchant"):
        post(client, "recommend", user_id="secret-user")
        post(client, "search", query="secret-words", user_id="secret-user")
        post(client, "history", user_id="secret-user")
        client.get("/v1/items/secret-item")
        assert client.get("/secret-path").status_code == 404
        problem(client, "recommend", history=["secret-item"])

        message = "secret-user"

        def broken(*_: object) -> None:
            raise RuntimeError(message)

        monkeypatch.setattr(service, "recommend", broken)
        answer = client.post("/v1/recommend", json={"user_id": "secret-user"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("penchant")]
    assert not [line for line in ours if "secret" in line]
    assert any(line.startswith("POST /v1/recommend 200") for line in ours)
    assert any(line.startswith("POST /v1/history 200") for line in ours)
    assert any(line.startswith("RuntimeError in /v1/recommend") for line in ours)
    assert json.loads(answer.text)["errors"][0]["field"] == "server"
