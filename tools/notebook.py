"""Writes docs/tutorial.ipynb from docs/tutorial.md: prose as it is, code in cells that run.

python tools/notebook.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
FENCE = re.compile(r"^```(python|sh)\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)


def notebook(page: str) -> str:
    """The page as a notebook (nbformat 4.5); shell commands become `!` lines."""
    cells: list[dict[str, object]] = []
    end = 0
    for block in FENCE.finditer(page):
        _add(cells, "markdown", page[end : block.start()])
        code = block[2]
        _add(cells, "code", code if block[1] == "python" else re.sub("^(?=.)", "!", code, flags=re.MULTILINE))
        end = block.end()
    _add(cells, "markdown", page[end:])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _add(cells: list[dict[str, object]], kind: str, text: str) -> None:
    if text.strip():
        cell = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, "source": text.strip("\n")}
        cells.append({**cell, "outputs": [], "execution_count": None} if kind == "code" else cell)


if __name__ == "__main__":
    (DOCS / "tutorial.ipynb").write_text(notebook((DOCS / "tutorial.md").read_text()))
