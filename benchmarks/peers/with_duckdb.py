"""What any preparation has to do at least, by DuckDB alone: read text, number the ids, sort, write Parquet."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import duckdb

from penchant.data.sources.raw import MEMORY, text


def main(log: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as db:
        db.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = {text(spill)}")
        columns = "columns={'user_id': 'VARCHAR', 'item_id': 'VARCHAR', 'moment': 'BIGINT'}, header=true"
        db.execute(f"CREATE TABLE log AS SELECT * FROM read_csv({text(log)}, auto_detect=false, delim=',', {columns})")
        for key in ("user_id", "item_id"):
            number = f"CAST(row_number() OVER (ORDER BY {key}) AS INTEGER) AS n_{key}"
            db.execute(f"CREATE TABLE m_{key} AS SELECT {key}, {number} FROM (SELECT DISTINCT {key} FROM log)")
        db.execute(
            "COPY (SELECT n_user_id, n_item_id, moment FROM log JOIN m_user_id USING (user_id) "
            "JOIN m_item_id USING (item_id) ORDER BY n_user_id, moment) "
            f"TO {text(out)} (FORMAT parquet, COMPRESSION zstd)"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
