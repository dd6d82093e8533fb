"""Taobao's behaviour: a made-up file of its layout; the real head where it is at hand."""

from __future__ import annotations

import gzip
import lzma
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from penchant.data.prepare import prepare
from penchant.data.sources.taobao import START_S, Taobao, read
from penchant.errors import DataError

QUIET = Console(quiet=True)
LINES = [
    f"7,30,900,pv,{START_S + 5}",
    f"7,10,800,cart,{START_S + 6}",
    f"8,30,901,fav,{START_S + 7}",  # another category than in line 1
    f"8,20,900,buy,{START_S + 8}",
    f"8,20,900,look,{START_S + 9}",
    "9,40,900,pv,-2134949234",  # 1902
    "9,40,900,pv,2122867355",  # 2037
    f"9,40,900,pv,{START_S - 60}",
    "9,40,900,p",
]


def make(folder: Path, suffix: str = "", lines: list[str] = LINES) -> Path:
    content = "\n".join(lines).encode()
    path = folder / f"UserBehavior.csv{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("UserBehavior.csv", content)
    else:
        compress = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[suffix]
        path.write_bytes(compress(content))
    return path


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zip"])
def test_behaviours_are_events_and_categories_the_catalogues(suffix: str, tmp_path: Path) -> None:
    store = prepare(read(Taobao(make(tmp_path, suffix))), tmp_path / "store", console=QUIET)
    assert store.user_ids == ["", "7", "8", "9"]
    assert store.item_ids == ["", "30", "10", "20", "40"]
    events = store.table("events")
    assert events["action"].to_pylist() == ["click", "cart", "fav", "buy", "click"]
    assert store.event_ts_ms[0] == (START_S + 5) * 1000
    assert store.table("items")["category_path"].to_pylist() == ["900", "800", "900", "900"]
    assert store.item_category.tolist() == [0, 2, 1, 2, 2]
    assert "Rows disagree on the category of 1 of 4 items; the first row's is taken." in store.manifest["notes"]
    assert "1 rows are dated before the collection began on 25 November 2017." in store.manifest["notes"]


def test_what_cannot_be_used_is_refused_with_its_line(tmp_path: Path) -> None:
    store = prepare(read(Taobao(make(tmp_path))), tmp_path / "store", console=QUIET)
    assert {r["reason"]: (r["count"], r["samples"]) for r in store.manifest["refused"]} == {
        "behaviour is none of pv, fav, cart, buy": (1, ["UserBehavior.csv line 5: behaviour = 'look'"]),
        "time is before 1990 or after 2100": (1, ["UserBehavior.csv line 6: time = '-2134949234'"]),
        "time is after the collection": (1, ["UserBehavior.csv line 7: time = '2122867355'"]),
        "broken line: too few values": (1, ["UserBehavior.csv line 9: '9,40,900,p'"]),
    }


def test_a_clean_file_has_nothing_to_say(tmp_path: Path) -> None:
    store = prepare(read(Taobao(make(tmp_path, lines=LINES[:2]))), tmp_path / "store", console=QUIET)
    assert (store.manifest["refused"], store.manifest["notes"]) == ([], ["Times of events were read as seconds."])


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"UserBehavior\.csv: no such file"):
        read(Taobao(tmp_path / "UserBehavior.csv"))


@pytest.mark.real_data
def test_the_real_head_is_read_whole_and_its_cut_last_line_reported(data_folder: Path, tmp_path: Path) -> None:
    raw = read(Taobao(data_folder / "taobao/UserBehavior.csv.xz"))
    store = prepare(raw, tmp_path / "store", console=QUIET)
    assert (store.num_users, store.num_items, store.num_events) == (815, 55_368, 84_475)
    assert store.manifest["counts"]["categories"] == 2_914
    (refused,) = store.manifest["refused"]
    assert refused["samples"] == ["UserBehavior.csv.xz line 84476: '100370,1968385,1875258,pv'"]
