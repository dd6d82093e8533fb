"""Files that are broken as a whole: not what they say, cut, compressed badly, in another encoding."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

from tests.data.sources.broken.case import DAY, GOOD, HEADER, LOG, Case, whole

TABLE = pa.table({"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "timestamp": [DAY, DAY + 60, DAY + 120]})
GZIPPED = gzip.compress(LOG.encode() * 50)
ZSTD = pa.Codec("zstd").compress(LOG.encode() * 50, asbytes=True)
OBJECTS = [{"user_id": u, "item_id": i, "timestamp": int(t)} for u, i, t in (row.split(",") for row in GOOD)]
LINES = "".join(json.dumps(o) + "\n" for o in OBJECTS)


def parquet(table: pa.Table = TABLE) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def arrow() -> bytes:
    buffer = io.BytesIO()
    pyarrow.feather.write_feather(TABLE, buffer)
    return buffer.getvalue()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, LOG)
    return buffer.getvalue()


def damaged(content: bytes, at: int) -> bytes:
    """With eight bytes turned over."""
    return content[:at] + bytes(b ^ 0xFF for b in content[at : at + 8]) + content[at + 8 :]


KINDS = r"Give CSV, TSV, Parquet, Arrow IPC or JSON lines"
ENDS = "\r\n"

TEXT = [
    whole("an empty file", "", error=rf"log\.csv: the file is empty\. {KINDS}"),
    whole("only a header", f"{HEADER}\n", error=r"log\.csv line 2: no usable event \(there are no rows\)\. Give rows"),
    whole("only a header, cut", HEADER, error=r"log\.csv line 2: no usable event \(there are no rows\)"),
    whole("only blank lines", "\n\n\n", error=r"log\.csv line 1: the first line is blank\. Name each column once"),
    whole("only a byte order mark", b"\xef\xbb\xbf", error=r"log\.csv line 1: the first line is blank"),
    whole("a blank line before the header", f"\n{LOG}", error=r"log\.csv line 1: the first line is blank"),
    whole(
        "no header",
        "\n".join(GOOD),
        error=r"log\.csv: no column user_id; the columns are: u, a, 1704067200\. Say which",
    ),
    whole(
        "a doubled column",
        LOG.replace("item_id", "user_id"),
        error=r"log\.csv line 1: column 'user_id' occurs twice\. Name each",
    ),
    whole(
        "two columns without a name", f"{HEADER},,\n{GOOD[0]},x,y\n", error=r"log\.csv line 1: column '' occurs twice"
    ),
    whole(
        "no column of items",
        LOG.replace("item_id", "thing"),
        error=r"log\.csv: no column item_id; the columns are: user_id, thing",
    ),
    whole(
        "a line end in a name",
        f'"user_id","the\nitem",timestamp\n{GOOD[0]}\n',
        error=r"log\.csv: no column item_id; the columns are: user_id, the\\nitem, timestamp\.",
    ),
    whole(
        "a quote in the header that is not closed",
        f'user_id,"item_id,timestamp\n{GOOD[0]}\n',
        error=r"log\.csv line 1: no names of columns \(unexpected end of data\)\. Name each",
    ),
    whole(
        "thousands of columns",
        ",".join(f"c{i}" for i in range(3000)) + "\n1\n",
        error=r"log\.csv: no column user_id; the columns are: c0, .*c19 and 2,980 more\. Say",
    ),
    whole(
        "a header of two million letters",
        "x" * 2_000_000,
        error=r"log\.csv line 1: no names of columns \(field larger than",
    ),
    whole(
        "another delimiter than any",
        LOG.replace(",", "~"),
        error=r"log\.csv: no column user_id; the columns are: user_id~item_id~timestamp",
    ),
    whole(
        "a header of another width",
        f"{HEADER},extra\n" + "\n".join(GOOD),
        error=r"log\.csv line 2: 'u,a,1704067200': no usable event \(broken line: .*: 3\)\. Each line needs 4",
    ),
    whole(
        "a web page",
        "<!doctype html>\n<title>404</title>\n",
        error=r"log\.csv: no column user_id; the columns are: <!doctype html>",
    ),
    whole(
        "letters that command a terminal",
        "\x1b[31mred\x07,b\n1,2\n",
        error=r"log\.csv: no column user_id; the columns are: \\x1b\[31mred\\x07, b\.",
    ),
    whole("a byte order mark", b"\xef\xbb\xbf" + LOG.encode(), rows=3),
    whole("two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbf" + LOG.encode(), rows=3),
    whole("Windows line ends", LOG.replace("\n", ENDS), rows=3),
    whole("line ends of old Macs", LOG.replace("\n", "\r"), rows=3),
    whole(
        "mixed line ends",
        f"{HEADER}{ENDS}{GOOD[0]}\n{GOOD[1]}\r{GOOD[2]}{ENDS}u,soon\n",
        refused={"broken line: too few values": 1},
        sample=r"log\.csv line 5: 'u,soon'",
        rows=4,
    ),
    whole("a line feed after Windows line ends", LOG.replace("\n", ENDS) + f"u,a,{DAY}\n", rows=4),
    whole("doubled carriage returns", LOG.replace("\n", "\r\r\n"), rows=3),
    whole(
        "mixed line ends after quotes",
        f'{HEADER}\n"u","a","{DAY}"{ENDS}"v","b\r\nc","{DAY}"\n',
        rows=2,
        holds={"items.item_id": ["a", "b\r\nc"]},
    ),
    whole("mixed line ends in JSON lines", LINES.replace("\n", ENDS, 1), file="log.jsonl", rows=3),
    whole(
        "latin-1",
        LOG.replace("v", "\xfc").encode("latin-1"),
        rows=3,
        holds={"users.user_id": ["u", "ü"]},
        notes=r"log\.csv is not UTF-8",
    ),
    whole("Windows' own letters", LOG.replace("v", "€").encode("cp1252"), rows=3, holds={"users.user_id": ["u", "€"]}),
    whole(
        "bytes that are no letters anywhere",
        LOG.encode() + b"\x81\x8d\x9d,a,1704067200\n",
        refused={"broken line: letters that are not UTF-8": 1},
        sample=r"log\.csv line 5",
        rows=4,
    ),
    whole("UTF-16", LOG.encode("utf-16"), error=r"log\.csv: is UTF-16 text\. Save it as UTF-8"),
    whole("UTF-16 without its mark", LOG.encode("utf-16-le"), error=rf"log\.csv: is not text\. {KINDS}"),
    whole("zero bytes for a file", bytes(1000), error=rf"log\.csv: is not text\. {KINDS}"),
    whole("a picture for a log", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), error=r"log\.csv: "),
]

PACKED = [
    whole(
        "a cut gzip file",
        GZIPPED[:-20],
        file="log.csv.gz",
        error=r"log\.csv\.gz: cannot be decompressed \(.*\)\. Copy it again",
    ),
    whole(
        "a gzip file with damage inside",
        damaged(GZIPPED, 30),
        file="log.csv.gz",
        error=r"log\.csv\.gz: cannot be decompressed",
    ),
    whole(
        "a gzip file with a wrong checksum",
        damaged(GZIPPED, len(GZIPPED) - 8),
        file="log.csv.gz",
        error=r"log\.csv\.gz: cannot be decompressed",
    ),
    whole(
        "a gzip file with something after it",
        gzip.compress(LOG.encode()) + b"more",
        file="log.csv.gz",
        error=r"log\.csv\.gz: cannot be decompressed",
    ),
    whole(
        "only the start of a gzip header", b"\x1f\x8b", file="log.csv.gz", error=r"log\.csv\.gz: cannot be decompressed"
    ),
    whole("gzip of nothing", gzip.compress(b""), file="log.csv.gz", error=r"log\.csv\.gz: the file is empty"),
    whole(
        "two gzip files in one",
        gzip.compress(LOG.encode()) + gzip.compress(f"u,b,{DAY}\n".encode()),
        file="log.csv.gz",
        rows=4,
    ),
    whole("gzip by name only", LOG, file="log.csv.gz", rows=3),
    whole("gzip without the name", gzip.compress(LOG.encode()), rows=3),
    whole("gzip in gzip", gzip.compress(gzip.compress(LOG.encode() * 99)), file="log.csv.gz", error=r"log\.csv\.gz"),
    whole("a cut zstd file", ZSTD[:-9], file="log.csv.zst", error=r"log\.csv\.zst: cannot be decompressed"),
    whole(
        "a cut xz file",
        lzma.compress(LOG.encode() * 50)[:-9],
        file="log.csv.xz",
        error=r"log\.csv\.xz: cannot be decompressed",
    ),
    whole(
        "an xz file with damage inside",
        damaged(lzma.compress(LOG.encode() * 50), 40),
        file="log.csv.xz",
        error=r"log\.csv\.xz: cannot be decompressed",
    ),
    whole("a zip archive by another name", zipped("log.csv"), rows=3),
    whole(
        "a zip archive of two files",
        zipped("a.csv", "b.csv"),
        file="log.csv.zip",
        error=r"log\.csv\.zip: holds 2 files\. Unpack it and give the one",
    ),
    whole("a zip archive of nothing", zipped(), file="log.zip", error=r"log\.zip: (holds 0 files|is not text)"),
    whole(
        "a cut zip archive of a log", zipped("log.csv")[:-30], file="log.zip", error=r"log\.zip: cannot be decompressed"
    ),
    whole(
        "a zip archive of a log with damage inside",
        damaged(zipped("log.csv"), 50),
        file="log.zip",
        error=r"log\.zip: cannot be decompressed",
    ),
    whole(
        "an encrypted zip archive of a log",
        zipped("log.csv")
        .replace(b"PK\x03\x04\x14\0\0", b"PK\x03\x04\x14\0\1")
        .replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1"),
        file="log.zip",
        error=r"log\.zip: cannot be decompressed \(.*encrypted",
    ),
    whole("a bzip2 file", bz2.compress(LOG.encode()), file="log.csv.bz2", error=r"log\.csv\.bz2"),
]

JSON = [
    whole(
        "one JSON array",
        json.dumps(OBJECTS),
        file="log.json",
        error=r"log\.json: is one JSON array\. Write one object a line",
    ),
    whole(
        "a JSON array over lines", json.dumps(OBJECTS, indent=1), file="log.json", error=r"log\.json: is one JSON array"
    ),
    whole(
        "one JSON object over lines",
        json.dumps(OBJECTS[0], indent=1),
        file="log.json",
        error=r"log\.json line 1: '\{': no line is a JSON object\. Write one",
    ),
    whole(
        "JSON lines that are no objects",
        '1\n"x"\nnull\n',
        file="log.jsonl",
        error=r"log\.jsonl line 1: '1': no line is a JSON object",
    ),
    whole(
        "CSV named as JSON lines",
        LOG,
        file="log.jsonl",
        error=r"log\.jsonl line 1: 'user_id,item_id,timestamp': no line is a JSON object",
    ),
    whole(
        "a cut JSON line",
        LINES + LINES[:20],
        file="log.jsonl",
        refused={"not a JSON object": 1},
        sample=r"log\.jsonl line 4: '\{\"user_id",
        rows=4,
    ),
    whole(
        "two JSON objects in a line",
        LINES + LINES.replace("\n", "", 1).splitlines()[0],
        file="log.jsonl",
        refused={"not a JSON object": 1},
        rows=4,
    ),
    whole(
        "single quotes in JSON",
        LINES + "{'user_id': 'u'}\n",
        file="log.jsonl",
        refused={"not a JSON object": 1},
        sample=r"line 4: \"\{'user_id",
        rows=4,
    ),
    whole(
        "half a letter in JSON",
        LINES + '{"user_id": "\\ud800", "item_id": "a", "timestamp": 1704067200}\n',
        file="log.jsonl",
        refused={"not a JSON object": 1},
        rows=4,
    ),
    whole(
        "a key missing from a JSON object",
        LINES + f'{{"user_id": "u", "timestamp": {DAY}}}\n',
        file="log.jsonl",
        refused={"item_id is missing": 1},
        sample=r"log\.jsonl line 4: item_id = None",
        rows=4,
    ),
    whole(
        "other types in JSON",
        LINES
        + '{"user_id": {"a": 1}, "item_id": [1], "timestamp": "soon"}\n'
        + '{"user_id": null, "item_id": true, "timestamp": 5}\n',
        file="log.jsonl",
        refused={"time is not understood": 1, "user_id is missing": 1},
        rows=5,
    ),
    whole(
        "NaN in JSON",
        LINES + '{"user_id": "u", "item_id": "a", "timestamp": NaN}\n',
        file="log.jsonl",
        refused={"time is before 1990 or after 2100": 1},
        sample=r"line 4: time = 'NaN'",
        rows=4,
    ),
    whole(
        "JSON nested too deep",
        LINES + '{"user_id": ' + "[" * 9999 + "]" * 9999 + "}\n",
        file="log.jsonl",
        refused={"item_id is missing": 1},
        rows=4,
    ),
    whole(
        "a JSON line of three million letters",
        LINES + json.dumps({**OBJECTS[0], "x": "y" * 3_000_000}),
        file="log.jsonl",
        refused={"broken line: a line over 2 MB, probably a quote that is not closed": 1},
        sample=r"log\.jsonl line 4",
        rows=4,
    ),
    whole(
        "a zero byte in a key",
        LINES + '{"a\\u0000b": 1}\n',
        file="log.jsonl",
        refused={"user_id is missing": 1},
        rows=4,
    ),
    whole("a byte order mark before JSON", b"\xef\xbb\xbf" + LINES.encode(), file="log.jsonl", rows=3),
    whole("a JSON key twice", LINES.replace('{"user_id"', '{"user_id": "u", "user_id"'), file="log.jsonl", rows=3),
]

COLUMNAR = [
    whole("CSV named as Parquet", LOG, file="log.parquet", error=rf"log\.parquet: not a Parquet file\. {KINDS}"),
    whole(
        "a cut Parquet file",
        parquet()[:-30],
        file="log.parquet",
        error=r"log\.parquet: cannot be read \(.*\)\. Write it again",
    ),
    whole("only the mark of Parquet", b"PAR1", file="log.parquet", error=r"log\.parquet: cannot be read"),
    whole(
        "a Parquet file with damaged pages",
        damaged(parquet(), 30),
        file="log.parquet",
        error=r"log\.parquet: cannot be read",
    ),
    whole(
        "an empty Parquet table",
        parquet(TABLE.slice(0, 0)),
        file="log.parquet",
        error=r"log\.parquet row 1: no usable event \(there are no rows\)",
    ),
    whole(
        "a column twice in Parquet",
        parquet(TABLE.append_column("item_id", TABLE["item_id"])),
        file="log.parquet",
        error=r"log\.parquet: column 'item_id' occurs twice",
    ),
    whole(
        "nulls in Parquet",
        parquet(pa.concat_tables([TABLE, pa.table({k: pa.nulls(1, TABLE[k].type) for k in TABLE.column_names})])),
        file="log.parquet",
        refused={"user_id is missing": 1},
        sample=r"log\.parquet row 4: user_id = None",
        rows=4,
    ),
    whole(
        "a time of a type that is none",
        parquet(TABLE.set_column(2, "timestamp", pa.array([[1], [2], [3]]))),
        file="log.parquet",
        error=r"log\.parquet row 1: time = '\[1\]': no usable event \(time is not understood: 3\)",
    ),
    whole(
        "a time beyond all time in Parquet",
        parquet(TABLE.set_column(2, "timestamp", pa.array([2**62, DAY, DAY], pa.timestamp("ms")))),
        file="log.parquet",
        error=r"log\.parquet: cannot be read",
    ),
    whole(
        "a cut Arrow file", arrow()[:-40], file="log.arrow", error=r"log\.arrow: cannot be read \(.*\)\. Write it again"
    ),
    whole("CSV named as Arrow", LOG, file="log.arrow", error=r"log\.arrow: cannot be read"),
    whole("an Arrow stream that ends early", arrow()[:40], file="log.feather", error=r"log\.feather: cannot be read"),
]

EVENTS = ("table", "--events")
PATHS = [
    Case(
        "no such file",
        {"clicks.csv": LOG},
        (*EVENTS, "click.csv"),
        error=r"click\.csv: no such file\. The folder has: clicks\.csv\.",
    ),
    Case(
        "a folder for a file",
        {"logs/a.csv": LOG},
        (*EVENTS, "logs"),
        error=r"logs: is a folder, not a file\. The folder has: a\.csv\.",
    ),
    Case(
        "a file for a folder",
        args=(*EVENTS, "log.csv/more.csv"),
        error=r"log\.csv/more\.csv: no such file\. The folder has: no files",
    ),
    Case(
        "no such folder",
        args=(*EVENTS, "nowhere/log.csv"),
        error=r"nowhere/log\.csv: no such file\. The folder has: no files",
    ),
    Case(
        "a link to nowhere",
        {"link.csv": lambda p: p.symlink_to("gone.csv")},
        (*EVENTS, "link.csv"),
        error=r"link\.csv: no such file",
    ),
    Case("a pipe for a file", {"pipe.csv": os.mkfifo}, (*EVENTS, "pipe.csv"), error=r"pipe\.csv: no such file"),
    Case(
        "a name that is too long", args=(*EVENTS, "x" * 300), error=r"x{300}: File name too long\. Give a shorter name"
    ),
    Case("a name that is a pattern", {"log[1]*.csv": LOG}, (*EVENTS, "log[1]*.csv"), rows=3),
    Case("quotes in a name", {"lo'g\".csv": LOG}, (*EVENTS, "lo'g\".csv"), rows=3),
    Case(
        "a column that is not there",
        args=(*EVENTS, "log.csv", "--columns", "user_id=who"),
        error=r"--columns: no column 'who' for user_id\. The columns are: log\.csv: user_id",
    ),
    Case(
        "a field that is not there",
        args=(*EVENTS, "log.csv", "--columns", "usr=user_id"),
        error=r"--columns: no field 'usr'\. Fields are: user_id",
    ),
    Case(
        "a mapping that maps nothing",
        args=(*EVENTS, "log.csv", "--columns", "user_id"),
        error=r"--columns: 'user_id' maps nothing\. Write",
    ),
    Case(
        "a Store that is there",
        {"log.csv": LOG, "out/store/mine": "x"},
        (*EVENTS, "log.csv"),
        error=r"out/store: already exists\. Choose another --out",
    ),
    Case(
        "broken rows, and --strict",
        {"log.csv": f"{LOG}u,a,soon\nu\n"},
        (*EVENTS, "log.csv", "--strict"),
        error=r"log\.csv line 6: 'u': broken line: too few values \(2 rows refused in all, and --strict is set\)",
    ),
]

CASES = [*TEXT, *PACKED, *JSON, *COLUMNAR, *PATHS]
