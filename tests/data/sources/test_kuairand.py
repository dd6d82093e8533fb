"""KuaiRand's files, made up here in miniature, in their true layout: one version in a file a log, and 27K in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console

from penchant.data.prepare import prepare
from penchant.data.sources.kuairand import KuaiRand, read
from penchant.data.store import Store
from penchant.errors import DataError

QUIET = Console(quiet=True)
LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
USERS = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    f"register_days_range,{','.join(f'onehot_feat{i}' for i in range(18))}\n"
)
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag\n"
)
START = 1_649_400_000_000


def shown(user: int, video: int, ms: int, click: int, tab: int = 1, rand: int = 0) -> str:
    return f"{user},{video},20220408,1400,{START + ms},{click},0,0,0,0,0,{click},900,9000,0,0,0,{rand},{tab}\n"


EARLY = shown(0, 10, 0, 1) + shown(0, 20, 0, 0) + shown(3, 10, 50, 0, tab=4)
LATE = shown(0, 30, 900, 1, tab=4) + shown(3, 30, 700, 1)
RANDOM = shown(3, 20, 800, 1, rand=1) + shown(3, 30, 900, 0, rand=1)


def make(folder: Path, version: str = "pure") -> Path:
    data = folder / f"KuaiRand-{version}" / "data"
    data.mkdir(parents=True)
    files = {
        f"log_standard_4_08_to_4_21_{version}.csv": LOG + EARLY,
        f"log_standard_4_22_to_5_08_{version}.csv": LOG + LATE,
        f"log_random_4_22_to_5_08_{version}.csv": LOG + RANDOM,
        f"user_features_{version}.csv": USERS
        + f'3,full_active,0,0,1,5,"(0,10]",0,0,2,"[1,5)",3624,730+{",1" * 18}\n'
        + f"0,UNKNOWN,0,0,0,0,0,0,0,0,0,16,15-30{',0' * 18}\n",
        f"video_features_basic_{version}.csv": VIDEOS
        + '10,7,NORMAL,2022-04-01,ShortImport,0.0,9000.0,720.0,1280.0,99,4.0,"12,65"\n'
        + "20,7,NORMAL,2022-04-01,LongImport,0.0,9000.0,720.0,1280.0,98,9.0,8\n"
        + "30,8,AD,2022-04-02,Web,1.0,,720.0,1280.0,97,9.0,\n",
        f"video_features_statistic_{version}.csv": "video_id,counts,show_cnt\n10,66,75.2\n",
    }
    if version == "27k":
        for log, lines in (("4_08_to_4_21", EARLY), ("4_22_to_5_08", LATE)):
            del files[f"log_standard_{log}_27k.csv"]
            first, second = lines.splitlines(keepends=True)[:1], lines.splitlines(keepends=True)[1:]
            for part, content in ((1, first), (2, second)):
                files[f"log_standard_{log}_27k_part{part}.csv"] = LOG + "".join(content)
    for name, content in files.items():
        (data / name).write_text(content)
    return data.parent


def store_of(options: KuaiRand, tmp_path: Path) -> Store:
    return prepare(read(options), tmp_path / "store", console=QUIET)


@pytest.mark.parametrize("version", ["pure", "1k", "27k"])
def test_every_version_gives_the_same_store(version: str, tmp_path: Path) -> None:
    store = store_of(KuaiRand(make(tmp_path, version)), tmp_path)
    rows = store.table("impressions")
    assert store.name == f"kuairand-{version}-standard"
    assert store.item_ids == ["", "10", "20", "30"]
    assert store.user_ids == ["", "3", "0"]  # as user_features lists them
    assert rows["item"].to_pylist() == [1, 2, 1, 3, 3]
    assert rows["label"].to_pylist() == [1, 0, 0, 1, 1]
    assert rows["request"].to_pylist() == [1, 1, 2, 3, 4]  # the first two at one millisecond
    assert set(rows["source"].to_pylist()) == {"logged"}
    events = store.table("events")
    assert events["item"].to_pylist() == [3, 1, 3]
    assert events["request"].to_pylist() == [3, 1, 4]
    assert events["ts_ms"].to_pylist() == [START + 700, START, START + 900]
    assert set(events["action"].to_pylist()) == {"click"}
    assert store.manifest["refused"] == []


def test_videos_and_users_keep_what_was_known_when_they_were_shown(tmp_path: Path) -> None:
    store = store_of(KuaiRand(make(tmp_path)), tmp_path)
    items, users = store.table("items"), store.table("users")
    assert items["category_path"].to_pylist() == ["12", "8", None]
    assert items["tag"].to_pylist() == ["12,65", "8", None]
    assert items["author_id"].to_pylist() == ["7", "7", "8"]
    assert items["video_type"].to_pylist() == ["NORMAL", "NORMAL", "AD"]
    assert not {"visible_status", "show_cnt", "video_id"} & {*items.column_names}
    assert users["follow_user_num_range"].to_pylist() == ["(0,10]", "0"]
    assert users["onehot_feat17"].to_pylist() == ["1", "0"]


@pytest.mark.parametrize(
    ("logs", "sources", "labels"),
    [
        ("random", ["logged_random"] * 2, [1, 0]),
        ("both", ["logged"] * 4 + ["logged_random", "logged", "logged_random"], [1, 0, 0, 1, 1, 1, 0]),
    ],
)
def test_what_was_shown_at_random_is_told_apart(
    logs: Literal["random", "both"], sources: list[str], labels: list[int], tmp_path: Path
) -> None:
    store = store_of(KuaiRand(make(tmp_path), logs=logs), tmp_path)
    rows = store.table("impressions")
    assert rows["source"].to_pylist() == sources
    assert rows["label"].to_pylist() == labels
    assert store.name == f"kuairand-pure-{logs}"


def test_a_tab_alone(tmp_path: Path) -> None:
    path = make(tmp_path)
    store = store_of(KuaiRand(path, tab=4), tmp_path)
    assert store.table("impressions")["item"].to_pylist() == [1, 3]
    assert "3 of 5 rows are of other tabs and were left out." in store.manifest["notes"]
    assert store.name == "kuairand-pure-standard-tab4"
    with pytest.raises(DataError, match=r"no row of tab 9\. The tabs are: 1, 4\."):
        read(KuaiRand(path, tab=9))


def test_bad_lines_are_refused_with_their_file_and_line(tmp_path: Path) -> None:
    path = make(tmp_path, "27k")
    bad = {
        "log_standard_4_08_to_4_21_27k_part2.csv": [shown(0, 10, 1, 2), shown(0, 10, 1, 1, tab=1)[:-2] + "main\n"],
        "log_standard_4_22_to_5_08_27k_part2.csv": [
            "1,2,3\n",
            f",{shown(0, 10, 1, 1).partition(',')[2]}",
            shown(0, 10, 1, 1).replace(str(START + 1), "12"),
            shown(0, 10, 1, 1, rand=7),
        ],
    }
    for name, lines in bad.items():
        with (path / "data" / name).open("a") as file:
            file.writelines(lines)
    store = store_of(KuaiRand(path), tmp_path)
    assert {r["reason"]: r["samples"][0].partition(": ")[0] for r in store.manifest["refused"]} == {
        "is_click is not 0 or 1": "log_standard_4_08_to_4_21_27k_part2.csv line 4",
        "tab is not a number": "log_standard_4_08_to_4_21_27k_part2.csv line 5",
        "broken line: too few values": "log_standard_4_22_to_5_08_27k_part2.csv line 3",
        "user_id is missing": "log_standard_4_22_to_5_08_27k_part2.csv line 4",
        "time is before 1990 or after 2100": "log_standard_4_22_to_5_08_27k_part2.csv line 5",
        "is_rand is not 0 or 1": "log_standard_4_22_to_5_08_27k_part2.csv line 6",
    }
    assert {r["count"] for r in store.manifest["refused"]} == {1}
    assert len(store.impression_item) == 5


def test_without_features_the_logs_are_enough(tmp_path: Path) -> None:
    path = make(tmp_path)
    for file in path.glob("data/*features*"):
        file.unlink()
    store = store_of(KuaiRand(path / "data"), tmp_path)
    assert store.num_items == 3
    assert "The release's video_features_basic is not there: videos have no category." in store.manifest["notes"]
    assert "The release's user_features is not there: users have no profile." in store.manifest["notes"]


def test_what_is_no_release_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: not the logs of a KuaiRand release: found nothing\. KuaiRand's"):
        read(KuaiRand(tmp_path / "nowhere"))
    path = make(tmp_path)
    (path / "data/log_random_4_22_to_5_08_pure.csv").unlink()
    for logs in ("random", "both"):
        with pytest.raises(
            DataError, match=r"release: found log_standard_4_08_to_4_21_pure\.csv, .*log_random_\*\.csv"
        ):
            read(KuaiRand(path, logs=logs))
    (path / "data/log_standard_4_22_to_5_08_pure.csv").write_text("user_id,video_id,time\n1,2,3\n")
    message = (
        r"4_22_to_5_08_pure\.csv: no column time_ms, is_click, is_rand, tab; the columns are: user_id, video_id, time"
    )
    with pytest.raises(DataError, match=message):
        read(KuaiRand(path))
    make(tmp_path, "1k")
    with pytest.raises(DataError, match=r"logs of 1k and pure\. Give the folder of one version"):
        read(KuaiRand(tmp_path))
