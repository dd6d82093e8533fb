"""Broken rows of a log: each is refused and counted, and costs no other."""

from __future__ import annotations

from tests.data.sources.broken.case import DAY, HEADER, LOG, Case, beside, events, log, whole

NO_TIME = "time is missing"
NO_DATE = "time is not understood"
NUMBER_IN_TEXT = "time is a number in a column of ISO text"
TEXT_IN_NUMBERS = "time is ISO text in a column of numbers"
ABSURD = "time is before 1990 or after 2100"
SHORT = "broken line: too few values"
LONG = "broken line: too many values"
QUOTE = "broken line: a quote that is not closed"
LETTERS = "broken line: letters that are not UTF-8"

IDS = [
    events("no user", f",a,{DAY}", refused={"user_id is missing": 1}, sample=r"log\.csv line 5: user_id = None"),
    events("no item", f"u,,{DAY}", refused={"item_id is missing": 1}, sample=r"log\.csv line 5: item_id = None"),
    events("blank ids", f"  ,a,{DAY}", f"u,\t,{DAY}", refused={"user_id is missing": 1, "item_id is missing": 1}),
    events(
        "what programs write for none",
        *(f"{none},a,{DAY}" for none in ("NULL", "None", "NaN", "\\N", "<NA>")),
        refused={"user_id is missing": 5},
        sample=r"line 7: user_id = None",
    ),
    events("a row of nothing", ",,", refused={"user_id is missing": 1}),
    events("a long id", f"{'x' * 100_000},a,{DAY}", holds={"users.user_id": ["u", "v", "x" * 100_000]}),
    events("a zero byte in an id", f"w\0,a,{DAY}", holds={"users.user_id": ["u", "v", "w\0"]}),
    events("ids that look like numbers", f"007,a,{DAY}", f"7,a,{DAY}", holds={"users.user_id": ["u", "v", "007", "7"]}),
    events("letters of every script", f"用户,é🙂,{DAY}", holds={"items.item_id": ["a", "b", "é🙂"]}),
    events("one row twice", f"u,a,{DAY}", holds={"events.item": [1, 1, 2, 1]}),
    events("an SQL injection", f"'; DROP TABLE events; --,a,{DAY}", holds={"events.item": [1, 2, 1, 1]}),
]

TIMES = [
    events("no time", "u,a,", refused={NO_TIME: 1}, sample=r"log\.csv line 5: time = None"),
    events("a word for a time", "u,a,yesterday", refused={NO_DATE: 1}, sample=r"line 5: time = 'yesterday'"),
    events("NaN for a time", "u,a,nan", refused={ABSURD: 1}, sample=r"line 5: time = 'nan'"),
    events("infinite times", "u,a,inf", "u,a,-Infinity", "u,a,1e999", refused={ABSURD: 3}),
    events("negative times", "u,a,-1", f"u,a,-{DAY}", refused={ABSURD: 2}, sample=r"line 5: time = '-1'"),
    events("zero time", "u,a,0", refused={ABSURD: 1}, sample=r"time = '0'"),
    events("a time beyond 2100", "u,a,5000000000", refused={ABSURD: 1}, sample=r"time = '5000000000'"),
    events("a number no integer holds", f"u,a,{'9' * 40}", refused={ABSURD: 1}),
    events("milliseconds among seconds", f"u,a,{DAY}000", refused={ABSURD: 1}, sample=rf"time = '{DAY}000'"),
    events("ISO text among seconds", "u,a,2024-01-01", refused={TEXT_IN_NUMBERS: 1}, sample=r"time = '2024-01-01'"),
    events("a time in hexadecimal", "u,a,0x65920080", refused={NO_DATE: 1}),
    events("a decimal comma", f'u,a,"{DAY},5"', refused={NO_DATE: 1}),
    events("true for a time", "u,a,true", refused={NO_DATE: 1}),
    whole(
        "seconds among ISO text",
        f"{HEADER}\nu,a,2024-01-01\nu,b,2024-01-02T00:00:00Z\nu,c,{DAY}\n",
        refused={NUMBER_IN_TEXT: 1},
        sample=rf"line 4: time = '{DAY}'",
        rows=3,
    ),
    whole(
        "days there are not",
        f"{HEADER}\nu,a,2024-01-01\nu,b,2024-02-30\nu,b,2024-13-01\nu,b,0000-00-00\nu,c,2024-01-01T25:00\nu,c,2024-01-03\n"
        "u,c,2024-01-04\nu,c,2024-01-05\n",
        refused={NO_DATE: 4},
        sample="line 3: time = '2024-02-30'",
        rows=8,
    ),
    whole(
        "words for dates",
        f"{HEADER}\nu,a,2024-01-01\nu,b,infinity\nu,b,now\nu,b,today\nu,c,epoch\nu,d,0044-03-15 (BC)\n",
        refused={NO_DATE: 3, ABSURD: 2},
        rows=6,
    ),
    whole(
        "days before months",
        f"{HEADER}\nu,a,31/12/2023\nu,b,13/01/2024\n",
        error=r"log\.csv line 2: time = '31/12/2023': no usable event \(time is not understood: 2\)\. Write seconds or",
    ),
    whole(
        "days of another order behind a row without user",
        f"{HEADER}\n,a,31.12.2023 23:17\nu,a,31.12.2023 23:18\nu,b,13.01.2024 10:00\n",
        error=r"log\.csv line 3: time = '31\.12\.2023 23:18': no usable event \(user_id is missing: 1; time is not "
        r"understood: 2\)\. Write seconds or .* such as 2024-05-01",
    ),
    whole(
        "the epoch in every row",
        f"{HEADER}\nu,a,0\nu,b,0\n",
        error=r"log\.csv line 2: time = '0': no usable event \(.* 1990 .*: 2\)\. Is its unit right\?",
    ),
]

LINES = [
    events("a missing value", "u,a", refused={SHORT: 1}, sample=r"log\.csv line 5: 'u,a'"),
    events("a value too many", f"u,a,{DAY},x", refused={LONG: 1}, sample=rf"log\.csv line 5: 'u,a,{DAY},x'"),
    events("another delimiter in one line", f"u;a;{DAY}", refused={SHORT: 1}, sample=rf"line 5: 'u;a;{DAY}'"),
    events("a second header", HEADER, refused={NO_DATE: 1}, sample=r"line 5: time = 'timestamp'"),
    events("a remark", "# exported by hand", refused={SHORT: 1}, sample=r"line 5: '# exported by hand'"),
    events("two rows in one line", f"u,a,{DAY}u,b,{DAY}", refused={LONG: 1}),
    events("a mark of version control", "<<<<<<< HEAD", "=======", ">>>>>>> b", refused={SHORT: 3}),
    events(
        "text after a closed quote",
        f'"u"x,a,{DAY}',
        refused={"broken line: a quote that is not closed, or text after one that is": 1},
    ),
    events("a quote inside a value", f'5" nail,a,{DAY}', holds={"users.user_id": ["u", "v", '5" nail']}),
    events(
        "quotes doubled and line ends quoted",
        f'"say ""hi""\n\nyou",a,{DAY}',
        holds={"users.user_id": ["u", "v", 'say "hi"\n\nyou']},
    ),
    Case(
        "a quote that is never closed, in the middle",
        {"log.csv": f'{HEADER}\nu,a,{DAY}\nu,"b,{DAY}\nv,"a",{DAY}\nw,"a",{DAY}\n'},
        refused={QUOTE: 1},
        sample=r"log\.csv line 3: 'u,\"b",
        rows=4,
    ),
    events(
        "a quote that is never closed, at the end",
        f'u,"a,{DAY}',
        refused={"broken line: a quote that is not closed, or text after one that is": 1},
    ),
    Case("a cut last line", {"log.csv": f"{LOG}u,b"}, refused={SHORT: 1}, sample=r"log\.csv line 5: 'u,b'", rows=4),
    Case("a last time cut short", {"log.csv": f"{LOG}u,b,1704"}, refused={ABSURD: 1}, sample=r"time = '1704'", rows=4),
    Case("a last line without its end", {"log.csv": LOG.rstrip("\n")}, rows=3),
    Case("blank lines", {"log.csv": LOG.replace("\n", "\n\n")}, rows=3),
    Case(
        "spaces at the ends of values",
        {"log.csv": LOG.replace(",", " , ")},
        rows=3,
        holds={"users.user_id": ["u", "v"]},
    ),
    events(
        "a field of three million letters",
        f"u,{'x' * 3_000_000},{DAY}",
        refused={"broken line: a line over 2 MB, probably a quote that is not closed": 1},
        sample=r"log\.csv line 5: 'u,xxx",
    ),
    Case(
        "one line in another encoding",
        {"log.csv": log(f"é,a,{DAY}").encode() + f"\xfc,a,{DAY}\n".encode("latin-1")},
        refused={LETTERS: 1},
        sample=r"log\.csv line 6: '",
        rows=5,
    ),
    Case(
        "half a letter",
        {"log.csv": log(f"é,a,{DAY}").encode() + b"\xe2\x82,a,1704067200\n"},
        refused={LETTERS: 1},
        rows=5,
    ),
    Case(
        "a third of the lines broken, in every way",
        {
            "log.csv": "\n".join(
                (
                    HEADER,
                    *(f"u,i{n},{DAY}" if n % 3 else ["u", "u,a,soon", ",,", "a,b,c,d"][n % 4] for n in range(1200)),
                )
            )
        },
        refused={SHORT: 100, LONG: 100, "user_id is missing": 100, NO_DATE: 100},
        rows=1200,
    ),
]

SHOWN = f"request_id,item_id,label,timestamp,position\nr1,a,1,{DAY},1\nr1,b,0,{DAY},2\n"

IMPRESSIONS = [
    beside(
        "no request",
        "impressions",
        f"{SHOWN},a,1,{DAY},1\n",
        refused={"request_id is missing": 1},
        sample=r"impressions\.csv line 4: request_id = None",
        rows=3,
    ),
    beside(
        "an impression of no item", "impressions", f"{SHOWN}r2,,1,{DAY},1\n", refused={"item_id is missing": 1}, rows=3
    ),
    beside(
        "an unknown label",
        "impressions",
        f"{SHOWN}r2,a,maybe,{DAY},1\nr2,a,2,{DAY},1\nr2,a,-1,{DAY},1\nr2,a,0.5,{DAY},1\nr2,a,,{DAY},1\n",
        refused={"label is not 0 or 1": 5},
        sample=r"line 4: label = 'maybe'",
        rows=7,
    ),
    beside(
        "an unknown position",
        "impressions",
        f"{SHOWN}r2,a,1,{DAY},top\nr2,a,1,{DAY},-2\nr2,a,1,{DAY},40000\n",
        refused={"position is not a number from 1": 3},
        sample=r"line 4: position = 'top'",
        rows=5,
    ),
    beside(
        "positions from zero, and one no integer holds",
        "impressions",
        f"{SHOWN}r2,a,1,{DAY},0\nr2,b,0,{DAY},2147483647\nr2,b,0,{DAY},{'9' * 30}\n",
        refused={"position is not a number from 1": 2},
        sample=r"position = '2147483647'",
        rows=5,
        notes=r"Positions start at 0",
    ),
    beside(
        "absurd times of impressions",
        "impressions",
        f"{SHOWN}r2,a,1,5,1\nr2,a,1,later,1\n",
        refused={NO_DATE: 1, ABSURD: 1},
        sample=r"impressions\.csv line 4: time = '5'",
        rows=4,
    ),
    beside(
        "impressions without any time",
        "impressions",
        "request_id,item_id,label\nr1,a,1\nr2,b,0\n",
        refused={"impression has no time": 2},
        sample=r"impressions\.csv line 2",
        rows=2,
    ),
    beside(
        "impressions of unknown items",
        "impressions",
        f"{SHOWN}r2,new,1,{DAY},1\n",
        rows=3,
        holds={"items.item_id": ["a", "b", "new"]},
    ),
    beside("one impression twice", "impressions", f"{SHOWN}r1,a,1,{DAY},1\n", rows=3),
    beside("only the header of impressions", "impressions", SHOWN.splitlines()[0], rows=0),
    beside(
        "no label",
        "impressions",
        f"request_id,item_id,timestamp\nr1,a,{DAY}\n",
        error=r"impressions\.csv: no column label; the columns are: request_id, item_id, timestamp\. Say which",
    ),
]

USERS = [
    beside(
        "a user twice",
        "users",
        "user_id,age\nu,30\nv,40\nu,50\n",
        refused={"user_id is listed twice": 1},
        sample=r"users\.csv line 4: user_id = 'u'",
        holds={"users.age": [30, 40]},
    ),
    beside(
        "a profile of nobody",
        "users",
        "user_id,age\nu,30\n,40\n",
        refused={"user_id is missing": 1},
        sample=r"users\.csv line 3: user_id = None",
    ),
    beside(
        "a profile with a column of ours",
        "users",
        "user_id,user,own_user\nu,x,y\n",
        holds={"users.own_own_user": ["x", None], "users.own_user": ["y", None]},
    ),
    beside(
        "users of no event only",
        "users",
        "user_id,age\nz,30\n",
        holds={"users.user_id": ["u", "v"]},
        notes=r"1 users of the users table did nothing",
    ),
    beside(
        "users without ids",
        "users",
        "name,age\nu,30\n",
        error=r"users\.csv: no column user_id; the columns are: name, age\. Say which it is: --columns user_id=COLUMN",
    ),
    beside("only the header of users", "users", "user_id,age\n", holds={"users.age": [None, None]}),
]

CASES = [*IDS, *TIMES, *LINES, *IMPRESSIONS, *USERS]
