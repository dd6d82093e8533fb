"""What the server refuses: it names field, value and fix, and leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from penchant.serve import schemas
from penchant.serve.app import create_app
from penchant.serve.bundle import Bundle
from penchant.serve.events import EventLog
from penchant.serve.service import Service
from tests.serve.conftest import NOW_MS, post, problem


@pytest.mark.parametrize(
    ("path", "body", "field", "value"),
    [
        ("recommend", {"user_id": "u1", "k": 0}, "k", 0),
        ("recommend", {"user_id": "u1", "k": schemas.MAX_K + 1}, "k", schemas.MAX_K + 1),
        ("recommend", {"user_id": "u1", "k": 21}, "k", 21),
        ("recommend", {"user_id": "u1", "k": "5"}, "k", "5"),
        ("recommend", {"user_id": 1}, "user_id", 1),
        ("recommend", {"user_id": ""}, "user_id", ""),
        ("recommend", {"user": "u1"}, "user", "u1"),
        ("recommend", {"user_id": "u1", "history": ["i1"]}, "history", "list of 1"),
        ("recommend", {"user_id": " "}, "user_id", " "),
        ("recommend", {"history": ["i1", "\xa0"]}, "history.1", "\xa0"),
        ("recommend", {"history": ["i1", "i999"]}, "history.1", "i999"),
        ("recommend", {"history": ["i1"] * (schemas.MAX_HISTORY + 1)}, "history", "list of 1001"),
        ("search", {"query": ""}, "query", ""),
        ("search", {"query": "x" * 201}, "query", f"{'x' * 100}... (201 characters)"),
        ("search", {}, "query", None),
        ("events", {"events": []}, "events", "list of 0"),
        ("events", {"events": [{"user_id": "u1", "item_id": "i1"}] * 1001}, "events", "list of 1001"),
        ("events", {"events": [{"user_id": "u1", "item_id": "i999"}]}, "events.0.item_id", "i999"),
        ("events", {"events": [{"user_id": "u1", "item_id": "i1", "ts_ms": -1}]}, "events.0.ts_ms", -1),
        (
            "events",
            {"events": [{"user_id": "u1", "item_id": "i1", "ts_ms": NOW_MS + 61_000}]},
            "events.0.ts_ms",
            NOW_MS + 61_000,
        ),
        ("events", {"events": [{"user_id": "u1", "item_id": "i1", "action": "A b"}]}, "events.0.action", "A b"),
    ],
)
def test_a_refusal_names_field_value_and_fix(
    client: TestClient, path: str, body: dict[str, Any], field: str, value: object
) -> None:
    error = problem(client, path, **body)
    assert (error["field"], error["value"]) == (field, value)
    assert error["problem"] not in error["fix"]


@pytest.mark.parametrize(
    ("path", "body", "fix"),
    [
        ("search", {"query": ""}, "Send 1 to 200 characters."),
        ("recommend", {"k": 0}, "Send a whole number from 1 to 1,000."),
        ("recommend", {"k": 1.5}, "Send a whole number from 1 to 1,000."),
        ("recommend", {"history": "i1"}, "Send a list of at most 1,000 item ids."),
        ("recommend", {"history": ["i1", ""]}, "Send 1 to 256 characters that are not all blank."),
        ("recommend", {"explain": "yes"}, "Send true or false."),
        ("history", {"user_id": "u1", "limit": 0}, "Send a whole number from 1 to 1,000."),
        ("events", {"events": []}, "Send a list of 1 to 1,000 events."),
        (
            "events",
            {"events": [{"user_id": "u1", "item_id": "i1", "ts_ms": -1}]},
            "Send milliseconds since 1970 UTC as a whole number, or leave it out.",
        ),
    ],
)
def test_the_fix_says_what_the_field_takes(client: TestClient, path: str, body: dict[str, Any], fix: str) -> None:
    assert problem(client, path, **body)["fix"] == fix


def test_the_fix_of_a_parameter_says_what_it_takes(client: TestClient) -> None:
    for limit in ("abc", "0", "101"):
        (error,) = client.get("/v1/users", params={"limit": limit}).json()["errors"]
        assert (error["field"], error["value"]) == ("limit", limit)
        assert error["fix"] == "Send a whole number from 1 to 100."


def test_of_every_field_it_is_known_what_it_takes(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["components"]["schemas"]
    fields = {field for name, one in described.items() if name.endswith("Input") for field in one["properties"]}
    assert fields <= set(schemas.SEND)


def test_a_refused_batch_of_events_leaves_no_trace(client: TestClient) -> None:
    problem(client, "events", events=[{"user_id": "u1", "item_id": "i1"}, {"user_id": "u1", "item_id": "i999"}])
    problem(client, "events", events=[{"user_id": "stranger", "item_id": "i1"}, {"user_id": "stranger"}])
    assert post(client, "history", user_id="stranger")["known"] is False


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"[1]",
        b'"x"',
        b"\xff\xfe",
        b'{"k": NaN}',
        b'{"k": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"user_id": "\\ud800"}',  # half of a letter
        b'{"user_id": "u1", "\\ud800": 1}',
        b'{"user_id": "\xff"}',
    ],
)
def test_a_body_that_is_no_json_object_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/recommend", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "body"
    assert error["fix"]


@pytest.mark.parametrize("said", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_that_any_web_page_could_send_here_is_refused_and_logs_nothing(
    bundle: Bundle, tmp_path: Path, said: str | None
) -> None:
    service = Service(bundle, EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS)
    with TestClient(create_app(service, workers=1)) as client:
        body = b'{"events": [{"user_id": "u1", "item_id": "i1"}]}'
        answer = client.post("/v1/events", content=body, headers={"Content-Type": said} if said else {})
        assert answer.status_code == 422
        assert "Content-Type: application/json" in answer.json()["errors"][0]["fix"]
        assert len(service.log) == 0


def test_seconds_are_not_taken_for_milliseconds(client: TestClient) -> None:
    seconds = NOW_MS // 1000
    error = problem(client, "events", events=[{"user_id": "stranger", "item_id": "i1", "ts_ms": seconds}])
    assert (error["field"], error["value"]) == ("events.0.ts_ms", seconds)
    assert error["problem"] == "is before 1990; ts_ms is milliseconds"
    assert post(client, "history", user_id="stranger")["known"] is False


def test_where_there_is_an_order_alone_any_numbers_will_do(bundle: Bundle, tmp_path: Path) -> None:
    untimed = replace(bundle, manifest={**bundle.manifest, "has_time": False})
    service = Service(untimed, EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS)
    with TestClient(create_app(service, workers=1)) as client:
        events = [{"user_id": "stranger", "item_id": f"i{n}", "ts_ms": n - 1} for n in (3, 1, 2)]
        assert post(client, "events", events=events)["accepted"] == 3
        told = post(client, "history", user_id="stranger")["history"]
        assert [item["id"] for item in told] == ["i3", "i2", "i1"]
