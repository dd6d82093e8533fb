"""What `penchant evaluate RUN --beside RUN .. --search` found, as rows of the results page: one a system.

penchant train karma_search stores/bazaar-small --out runs/karma-search
penchant train sasrec stores/bazaar-small --out runs/sasrec
penchant evaluate runs/karma-search --beside runs/sasrec --search
python -m benchmarks.search --verdict runs/karma-search/search-test.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from benchmarks.command import argument_parser

from penchant.evaluation.results import Result, versions_here, write_result


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--verdict", type=Path, required=True, help="the JSON; its Parquet lies beside it")
    arguments = parser.parse_args()
    verdict = json.loads(arguments.verdict.read_text())
    users = pq.read_table(arguments.verdict.with_suffix(".parquet"))
    for name, system in verdict["systems"].items():
        of_system = users.filter(pc.field("system") == name).drop_columns("system")
        write_result(arguments.results, row_of(name, system, verdict), of_system)


def row_of(name: str, system: dict[str, Any], verdict: dict[str, Any]) -> Result:
    """One system's row."""
    return Result(
        paper="karma",
        table="search",
        row=name.replace(": ", "-").replace(" ", "-"),
        data=verdict["data"],
        split=verdict["split"],
        seed=0,
        window=verdict["window"],
        config=verdict["runs"].get(name, {}),
        data_fingerprint=verdict["data_fingerprint"],
        split_fingerprint=verdict["split_fingerprint"],
        versions=versions_here(),
        device="cpu",
        cpu_seconds=0.0,
        wall_seconds=system["wall_seconds"],
        steps=0,
        trials=1,
        metrics=system["metrics"],
        slices=system["slices"],
        synthetic=verdict["synthetic"],
    )


if __name__ == "__main__":
    main()
