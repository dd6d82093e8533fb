"""The pages on serving and on one's own data: what they show is asked and run again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from rich.console import Console

from penchant.cli.main import main
from penchant.data.prepare import prepare
from penchant.data.sources.columns import ALIASES, FIELDS, REQUIRED
from penchant.data.sources.table import Table, read
from penchant.data.store import Store
from penchant.data.user_split import read_split
from penchant.serve.app import create_app
from penchant.serve.bundle import Bundle
from penchant.serve.events import Event, EventLog
from penchant.serve.export import export
from penchant.serve.service import Service
from tests.markdown import Document
from tests.serve.conftest import NOW_MS, make_run

DOCS = Path(__file__).resolve().parents[1] / "docs"
SERVING, DATA = Document.read(DOCS / "serving.md"), Document.read(DOCS / "data.md")
QUIET = Console(quiet=True)


def asked() -> Iterator[tuple[str, str, dict[str, Any] | None, dict[str, Any]]]:
    """Method, path, body and the answer that is shown, of every request of the page."""
    (code,) = (code for language, code in SERVING.blocks if language == "console")
    for part in code.split("$ curl ")[1:]:
        command, shown = part.split("\n", 1)
        words = shlex.split(command)
        (place,) = (word.removeprefix("localhost:8000") for word in words if word.startswith("localhost:8000"))
        body = json.loads(words[words.index("-d") + 1]) if "-d" in words else None
        yield ("GET" if body is None else "POST"), place, body, json.loads(shown)


def form(value: object, key: str = "") -> object:
    """An answer without what fresh weights and clocks decide."""
    if isinstance(value, dict):
        return {k: form(v, k) for k, v in value.items() if key != "channels"}
    if isinstance(value, list):
        return [form(v, key) for v in value]
    if isinstance(value, float) or key in ("id", "title", "category", "text_rank"):
        return type(value).__name__
    if key == "thumbnail":  # not every item has one
        return value is None or str(value).startswith("/v1/thumbnails/")
    return value


def test_every_answer_shown_is_the_servers(store: Store, tmp_path: Path) -> None:
    export(make_run(store, tmp_path / "run"), store, tmp_path / "bundle")
    service = Service(Bundle.load(tmp_path / "bundle"), EventLog(tmp_path / "log"), now_ms=lambda: NOW_MS)
    requests = list(asked())
    assert {r[1] for r in requests} == {"/healthz", "/v1/recommend", "/v1/search", "/v1/events"}
    with TestClient(create_app(service, workers=1)) as client:
        for method, place, body, shown in requests:
            answer = client.request(method, place, json=body)
            assert answer.status_code == (422 if "errors" in shown else 201 if place == "/v1/events" else 200)
            assert form(answer.json()) == form(shown)
        described = client.get("/openapi.json").json()["paths"]
    routes = {place.replace("{item_id}", "ID") for place in described}
    named = re.findall(r"`(?:GET |POST )?(/(?:v1/)?[a-zA-Z/]+)(?:\?[^`]*)?`", SERVING.prose)
    assert routes <= set(named)


def test_the_next_store_has_what_was_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server goes on, and another beside it."""
    monkeypatch.chdir(tmp_path)
    Path("bundles").mkdir()
    Path("clicks.csv").write_text("user_id,item_id,timestamp\nada,p1,1700000000\nbob,p2,1700000100\n")
    Path("catalogue.csv").write_text("item_id,title\np1,Tea\np2,Mug\n")
    one, other = (EventLog("bundles/shop.events.sqlite") for _ in range(2))
    one.append([Event("ada", "p2", "buy", 1_700_000_200_123), Event("ada", "p,1", "click", 1_700_000_200_123)])
    other.append([Event("bob", "p2", "click", 1_700_000_100_000)])
    (commands,) = (code for _, code in SERVING.blocks if "--served" in code)
    assert main(shlex.split(commands.splitlines()[0])[1:]) == 0
    made = Store("stores/shop-2")
    assert made.manifest["refused"] == []
    events = made.table("events", ["user", "item", "action", "ts_ms"]).to_pylist()
    rows = [(made.user_ids[e["user"]], made.item_ids[e["item"]], e["action"], e["ts_ms"]) for e in events]
    assert rows == [
        ("ada", "p1", "click", 1_700_000_000_000),
        ("ada", "p2", "buy", 1_700_000_200_123),
        ("ada", "p,1", "click", 1_700_000_200_123),
        ("bob", "p2", "click", 1_700_000_100_000),  # both logs have it
    ]
    one.close()
    other.close()


def columns_of_own_logs() -> Iterator[tuple[str, str, bool, str]]:
    """File, column, whether it is needed, and the other names, of every row of the table."""
    section = DATA.text.split("## Your own logs")[1].split("\n## ")[0]
    kind = ""
    for line in section.splitlines():
        if not line.startswith("| ") or line.startswith("| file"):
            continue
        option, names, known, _ = (cell.strip() for cell in line.strip("|").split("|"))
        kind = option.strip("`-") or kind
        for name in names.split(", "):
            if name != "*any other*":
                yield kind, name.strip("*"), name.startswith("**"), known


def test_the_columns_of_ones_own_logs_are_those_that_are_read() -> None:
    table = list(columns_of_own_logs())
    for kind in ("events", "items", "impressions", "users"):
        rows = {name: needed for of, name, needed, _ in table if of == kind}
        assert set(rows) == set(FIELDS[kind])
        assert {name for name, needed in rows.items() if needed} == set(REQUIRED[kind])
    told: dict[str, str] = {}
    for _, name, _, known in table:
        told.setdefault(name, known)
    told["window"] = "split set"
    assert {name: tuple(known.split()) for name, known in told.items()} == ALIASES


def test_the_lines_of_ones_own_logs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for code in (code for language, code in DATA.blocks if language == "text"):
        for name, header, line in re.findall(r"^(\S+) +(\S+)\n +(.+)$", code, re.MULTILINE):
            Path(name).write_text(f"{header}\n{line}\n")
    Path("pictures").mkdir()
    Image.new("RGB", (8, 8)).save("pictures/p7.jpg")
    (command,) = (code for _, code in DATA.blocks if code.startswith("penchant prepare table"))
    assert main(shlex.split(command)[1:]) == 0
    store = Store("stores/shop")
    assert store.manifest["refused"] == []
    (item,) = store.table("items").to_pylist()
    assert (item["category_path"], item["price"], item["image"] is None) == ("Home > Lamps", 19.9, False)
    (shown,) = store.table("impressions").to_pylist()
    assert (shown["user"], shown["ts_ms"], shown["query"]) == (1, 1_714_566_600_000, 1)  # told by the event
    split = read_split(store, "mine.csv")
    assert (split.name, split.windows) == ("mine", ("train", "valid", "test"))
    section = DATA.text.split("A **time** is")[1].split("\n\n")[0]
    times = re.findall(r"`(\d[^`]+)`", section)
    assert len(times) == 4
    Path("times.csv").write_text("user,item,time\n" + "".join(f"ada,p7,{time}\n" for time in times))
    refused = prepare(read(Table(events=Path("times.csv"))), tmp_path / "times", console=QUIET).manifest["refused"]
    assert [one["count"] for one in refused] == [1]
    assert "01/05/2024" in refused[0]["samples"][0]
