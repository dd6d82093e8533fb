"""MIND: made-up files of its layout; the real sample where it is at hand."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from rich.console import Console

from penchant.data.prepare import prepare
from penchant.data.sources.mind_news import MindNews, read
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import DataError

QUIET = Console(quiet=True)
START_MS = 1_573_257_600_000  # 2019-11-09, UTC
BEHAVIORS = [
    "2\tU2\t11/9/2019 1:00:00 PM\tN7 N8 N7\tN1-0 N2-1 N3-1",
    "1\tU1\t11/9/2019 12:00:00 AM\t\tN2-0 N1-1",
    "3\tU2\t11/10/2019 12:00:01 AM\tN7 N8 N7\tN4-1",
]
NEWS = [
    'N1\tsports\tracing\tA title\tAn "abstract"\thttps://x\t[]\t[]',
    "N2\tnews\t\tAnother\t\thttps://x\t[]\t[]",
    "N1\tsports\tracing\tTwice\t\thttps://x\t[]\t[]",
    "N3\tnews\tbroken",
]


def store_of(folder: Path, behaviors: list[str] = BEHAVIORS, news: list[str] | None = None) -> Store:
    folder.mkdir(exist_ok=True)
    (folder / "behaviors.tsv").write_text("\n".join(behaviors) + "\n")
    (folder / "news.tsv.xz").write_bytes(lzma.compress("\n".join(news or []).encode()))
    options = MindNews(folder / "behaviors.tsv", folder / "news.tsv.xz" if news else None)
    return prepare(read(options), folder / "store", console=QUIET)


def names(store: Store, table: str) -> list[str]:
    return [store.item_ids[i] for i in store.table(table)["item"].to_pylist()]


def test_what_was_shown_is_kept_with_its_real_non_clicks(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    shown = store.table("impressions")
    assert names(store, "impressions") == ["N2", "N1", "N1", "N2", "N3", "N4"]
    assert shown["label"].to_pylist() == [0, 1, 0, 1, 1, 1]
    assert shown["request"].to_pylist() == [1, 1, 2, 2, 2, 3]
    assert set(shown["source"].to_pylist()) == {"logged"}
    assert set(shown["position"].to_pylist()) == {0}  # MIND shuffles them
    assert [store.user_ids[u] for u in store.request_user] == ["", "U1", "U2", "U2"]
    assert store.request_ts_ms.tolist()[1:] == [START_MS, START_MS + 13 * 3_600_000, START_MS + 86_401_000]


def test_earlier_clicks_come_once_in_their_order_before_the_log(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    events = store.table("events")
    by_user = [store.user_ids[u] for u in events["user"].to_pylist()]
    assert list(zip(by_user, names(store, "events"), events["request"].to_pylist(), strict=True)) == [
        ("U2", "N7", 0),
        ("U2", "N8", 0),
        ("U2", "N7", 0),
        ("U2", "N2", 2),
        ("U2", "N3", 2),
        ("U2", "N4", 3),
        ("U1", "N1", 1),
    ]
    assert store.event_ts_ms.tolist()[:3] == [START_MS - 3, START_MS - 2, START_MS - 1]
    assert any(note.startswith("3 clicks of 1 users are from before the log") for note in store.manifest["notes"])


def test_clicks_without_a_time_decide_no_split(tmp_path: Path) -> None:
    hours = [f"{i}\tU{i % 3}\t11/9/2019 {1 + i}:00:00 AM\tHISTORY\tN{i}-1" for i in range(10)]
    long = [line.replace("HISTORY", " ".join(["N7"] * 40)) for line in hours]
    short = [line.replace("HISTORY", "N7") for line in hours]
    splits = {}
    for name, lines in (("long", long), ("short", short)):
        store = store_of(tmp_path / name, lines)
        splits[name] = load_split(store, "funnel")
        trained = splits[name].events("train")
        assert set((store.event_ts_ms < START_MS + 3_600_000).nonzero()[0]) <= set(trained)
    assert splits["long"].cuts_ms == splits["short"].cuts_ms
    assert splits["long"].targets("test").size == splits["short"].targets("test").size > 0


def test_a_log_without_a_click_has_the_split_by_order_alone(tmp_path: Path) -> None:
    store = store_of(tmp_path, ["1\tU1\t11/9/2019 1:00:00 PM\tN7 N8 N9\tN1-0"])
    assert [p.stem for p in store.path.glob("splits/*.json")] == ["loo"]


def test_articles_bring_title_abstract_and_category_path(tmp_path: Path) -> None:
    store = store_of(tmp_path, news=NEWS)
    items = store.table("items").to_pylist()[:2]
    assert [(i["item_id"], i["title"], i["text"], i["category_path"]) for i in items] == [
        ("N1", "A title", 'An "abstract"', "sports > racing"),
        ("N2", "Another", None, "news"),
    ]
    assert {r["reason"]: r["samples"] for r in store.manifest["refused"]} == {
        "broken line: too few values": ["news.tsv.xz line 4: 'N3\\tnews\\tbroken'"],
        "item_id is listed twice": ["news.tsv.xz line 3: item_id = 'N1'"],
    }
    assert store.item_ids[3:] == ["N7", "N8", "N3", "N4"]  # only the log knows them


def test_what_cannot_be_used_is_refused_with_its_line(tmp_path: Path) -> None:
    lines = [
        *BEHAVIORS,
        "4\tU3\t2019-11-09\tN9\tN1-1",
        "5\tU3\t11/9/2019 1:00:00 PM\t\tN1 N2-1",
        "6\tU2\t11/11/2019 1:00:00 PM\tN9\tN2-1",
        "7\tU3",
    ]
    store = store_of(tmp_path, lines)
    assert {r["reason"]: r["samples"] for r in store.manifest["refused"]} == {
        "broken line: too few values": ["behaviors.tsv line 7: '7\\tU3'"],
        "time is not understood": ["behaviors.tsv line 4: time = '2019-11-09'"],
        "label is not 0 or 1": ["behaviors.tsv line 5: label = ''"],
    }
    assert "1 users have rows with different earlier clicks; those of the first are taken." in store.manifest["notes"]
    assert "N9" not in store.item_ids


def test_another_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no usable event"):
        store_of(tmp_path, ["a,b,c"])


@pytest.mark.real_data
def test_the_real_sample_is_read_whole(data_folder: Path, tmp_path: Path) -> None:
    raw = read(MindNews(data_folder / "mind/behaviors.tsv.xz", data_folder / "mind/news.tsv.xz"))
    store = prepare(raw, tmp_path / "store", console=QUIET)
    shown = store.table("impressions")
    assert (store.num_users, store.num_requests, shown.num_rows) == (4_637, 5_000, 189_359)
    assert sum(shown["label"].to_pylist()) == 7_542
    assert store.num_events == 7_542 + 138_932
    assert store.manifest["refused"] == []
    split = load_split(store, "temporal-successive")
    assert 700 < split.targets("test").size < 800  # a tenth of the dated clicks, not of all
