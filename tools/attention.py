"""Draw docs/figures/NAME.svg of results/NAME.json, the attention maps that `python -m benchmarks.collapse` wrote.

usage: python tools/attention.py [NAME ..]

NAME is attention (Table 1's decoders, the default) or encoder-attention (decoders and item encoders).
"""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from penchant.evaluation.figures import STYLE

ROOT = Path(__file__).parents[1]
SIDE = 1.7
"""Of a map, in inches."""


def draw(maps: dict[str, list[dict[str, str]]], path: Path) -> None:
    """A row for each layer and head, a column for each that reads; the darker, the more weight."""
    wide, high = max(map(len, maps.values())), len(maps)
    with rc_context(STYLE):
        figure = Figure(figsize=(SIDE * wide + 0.4, SIDE * high + 0.4), layout="constrained")
        grid = figure.subplots(high, wide, squeeze=False)
        for axes, (place, columns) in zip(grid, maps.items(), strict=True):
            axes[0].set_ylabel(place.replace(", ", "\n", 1))
            for one, column in zip(axes, columns, strict=False):
                pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(column["map"]))))
                one.imshow(pixels, cmap="Blues", vmin=0, vmax=255, interpolation="nearest")
                one.set_title(column["title"], fontsize=9)
            for one in axes:
                one.set_xticks([])
                one.set_yticks([])
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    for name in sys.argv[1:] or ["attention"]:
        source, picture = ROOT / "results" / f"{name}.json", ROOT / "docs" / "figures" / f"{name}.svg"
        if not source.is_file():
            sys.exit(f"no {source.relative_to(ROOT)}: `python -m benchmarks.collapse` writes it")
        draw(json.loads(source.read_text()), picture)
        print(f"wrote {picture.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
