"""Draws docs/figures/<paper>.svg: what of each paper serves, and what only trains.

python -m tools.diagrams
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
Kind = Literal["given", "serves", "trains"]
LOOKS: dict[Kind, str] = {
    "given": 'fill="#f4f4f8" stroke="#8a8a99"',
    "serves": 'fill="#e9e8fb" stroke="#5046c8"',
    "trains": 'fill="#fdf1ee" stroke="#b0372c" stroke-dasharray="5 3"',
}
LINE, LEGEND = 15, 34


@dataclass(frozen=True)
class Box:
    """A part, with its lines of text; the first is bold."""

    x: int
    y: int
    width: int
    height: int
    kind: Kind
    lines: Sequence[str]

    def drawn(self) -> str:
        middle, top = self.x + self.width / 2, self.y + (self.height - LINE * len(self.lines)) / 2 + 11.5
        look = LOOKS[self.kind]
        shape = f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="7" {look}/>'
        texts = [
            f'<text x="{middle:g}" y="{top + LINE * i:g}" text-anchor="middle"{"" if i else bold}>{escape(line)}</text>'
            for i, line in enumerate(self.lines)
            for bold in (' font-weight="600"',)
        ]
        return "\n".join([shape, *texts])


@dataclass(frozen=True)
class Arrow:
    """Through these points; dashed where it only trains."""

    points: Sequence[tuple[int, int]]
    trains: bool = False

    def drawn(self) -> str:
        way = " ".join(f"{x},{y}" for x, y in self.points)
        look = (
            'stroke="#b0372c" stroke-dasharray="5 3" marker-end="url(#red)"'
            if self.trains
            else ('stroke="#5046c8" marker-end="url(#blue)"')
        )
        return f'<polyline points="{way}" fill="none" stroke-width="1.4" {look}/>'


@dataclass(frozen=True)
class Diagram:
    """A picture of one paper."""

    name: str
    width: int
    height: int
    boxes: Sequence[Box]
    arrows: Sequence[Arrow] = field(default=())

    def drawn(self) -> str:
        marks = "".join(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
            for name, colour in (("blue", "#5046c8"), ("red", "#b0372c"))
        )
        bottom = self.height + LEGEND
        legend = [
            Box(20, self.height + 6, 16, 16, "serves", ()).drawn(),
            f'<text x="44" y="{self.height + 18}">serves</text>',
            Box(110, self.height + 6, 16, 16, "trains", ()).drawn(),
            f'<text x="134" y="{self.height + 18}">trains only: left out by export</text>',
        ]
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {bottom}" width="{self.width}" '
            f'height="{bottom}" font-family="system-ui, sans-serif" font-size="12" fill="#1d1d27">'
        )
        white = f'<rect width="{self.width}" height="{bottom}" fill="#fff"/>'
        parts = [*(a.drawn() for a in self.arrows), *(b.drawn() for b in self.boxes), *legend]
        return "\n".join([head, f"<defs>{marks}</defs>", white, *parts, "</svg>", ""])


def karma() -> Diagram:
    boxes = [
        Box(20, 110, 130, 60, "given", ("history", "items clicked,", "oldest first")),
        Box(185, 110, 150, 60, "serves", ("item encoder", "text, picture -> e_i", "(made offline)")),
        Box(370, 110, 150, 60, "serves", ("language model", "reads e_1 .. e_t", "as its tokens")),
        Box(555, 110, 110, 60, "serves", ("h_t", "the interest")),
        Box(700, 110, 120, 60, "serves", ("user vector", "width at most 128")),
        Box(855, 110, 125, 60, "serves", ("e_u . e_i", "one search")),
        Box(370, 20, 150, 56, "trains", ("Task 1, Eq. 6", "next text, told from", "the history")),
        Box(555, 20, 150, 56, "trains", ("Task 2, Eq. 7", "next text, told from", "h_t alone")),
        Box(740, 20, 150, 56, "trains", ("Eq. 8", "next picture, by", "flow matching")),
        Box(700, 205, 280, 44, "trains", ("action loss, Eq. 5", "clicked above shown and not clicked")),
    ]
    arrows = [
        Arrow([(150, 140), (183, 140)]),
        Arrow([(335, 140), (368, 140)]),
        Arrow([(520, 140), (553, 140)]),
        Arrow([(665, 140), (698, 140)]),
        Arrow([(820, 140), (853, 140)]),
        Arrow([(445, 110), (445, 78)], trains=True),
        Arrow([(610, 110), (610, 78)], trains=True),
        Arrow([(640, 110), (640, 93), (815, 93), (815, 78)], trains=True),
        Arrow([(917, 170), (917, 203)], trains=True),
    ]
    return Diagram("karma", 1000, 255, boxes, arrows)


def t2diff() -> Diagram:
    boxes = [
        Box(20, 100, 130, 66, "given", ("history X", "session and what", "came before it")),
        Box(20, 20, 130, 44, "given", ("noise", "the user's own")),
        Box(195, 20, 170, 60, "serves", ("U-Net, Eq. 15", "takes noise off the", "steps between items")),
        Box(410, 20, 150, 60, "serves", ("guess x^ of the next", "last item + last step,", "Eq. 18")),
        Box(410, 104, 150, 58, "serves", ("session with x^", "transformer -> h_s,", "Eq. 19")),
        Box(410, 186, 150, 58, "serves", ("older actions", "weighed by h_s -> h_l,", "Eq. 20 and 21")),
        Box(615, 104, 130, 58, "serves", ("FFN [h_l, h_s]", "e_u, Eq. 22")),
        Box(800, 104, 130, 58, "serves", ("e_u . e_i", "one search")),
        Box(195, 186, 170, 58, "trains", ("noised steps, Eq. 14", "of the history and", "to the target")),
        Box(615, 20, 150, 48, "trains", ("L_KL, Eq. 23", "steps told right?")),
        Box(800, 196, 130, 48, "trains", ("L_TOWER, Eq. 24", "softmax")),
    ]
    arrows = [
        Arrow([(150, 42), (193, 42)]),
        Arrow([(150, 120), (172, 120), (172, 66), (193, 66)]),
        Arrow([(365, 50), (408, 50)]),
        Arrow([(150, 133), (408, 133)]),
        Arrow([(150, 150), (172, 150), (172, 172), (388, 172), (388, 215), (408, 215)]),
        Arrow([(485, 80), (485, 102)]),
        Arrow([(485, 162), (485, 184)]),
        Arrow([(560, 133), (613, 133)]),
        Arrow([(560, 215), (588, 215), (588, 148), (613, 148)]),
        Arrow([(745, 133), (798, 133)]),
        Arrow([(280, 186), (280, 82)], trains=True),
        Arrow([(560, 35), (613, 35)], trains=True),
        Arrow([(865, 162), (865, 194)], trains=True),
    ]
    return Diagram("t2diff", 950, 255, boxes, arrows)


def ulim() -> Diagram:
    boxes = [
        Box(20, 20, 140, 50, "given", ("last 100 actions",)),
        Box(20, 150, 140, 60, "given", ("thousands before", "split by category")),
        Box(215, 20, 170, 50, "serves", ("short-term encoder", "self-attention, pooled")),
        Box(215, 90, 170, 50, "serves", ("PGIN", "pointer, generator, gate")),
        Box(215, 158, 170, 60, "serves", ("long-term encoder", "the short one asks each", "category's actions")),
        Box(440, 20, 150, 50, "serves", ("1 short-term vector",)),
        Box(440, 90, 150, 50, "serves", ("K categories", "likeliest next")),
        Box(440, 158, 150, 60, "serves", ("K long-term vectors", "one a category")),
        Box(645, 20, 150, 50, "serves", ("whole catalogue", "one search")),
        Box(645, 158, 150, 60, "serves", ("inside a category", "one search each,", "exact")),
        Box(850, 90, 120, 50, "serves", ("merge", "K + 1 lists -> 1")),
        Box(440, 245, 250, 44, "trains", ("L_l, L_s, Eq. 1 to 3", "batches of one category, own negatives")),
        Box(720, 245, 250, 44, "trains", ("cross-entropy", "which category came next")),
    ]
    arrows = [
        Arrow([(160, 45), (213, 45)]),
        Arrow([(160, 172), (187, 172), (187, 115), (213, 115)]),
        Arrow([(160, 190), (213, 190)]),
        Arrow([(160, 58), (174, 58), (174, 105), (213, 105)]),
        Arrow([(385, 58), (404, 58), (404, 174), (387, 174)]),
        Arrow([(385, 45), (438, 45)]),
        Arrow([(385, 115), (438, 115)]),
        Arrow([(385, 190), (438, 190)]),
        Arrow([(515, 140), (515, 156)]),
        Arrow([(590, 45), (643, 45)]),
        Arrow([(590, 190), (643, 190)]),
        Arrow([(795, 45), (910, 45), (910, 88)]),
        Arrow([(795, 190), (910, 190), (910, 142)]),
        Arrow([(515, 218), (515, 243)], trains=True),
        Arrow([(590, 115), (820, 115), (820, 243)], trains=True),
    ]
    return Diagram("ulim", 990, 300, boxes, arrows)


def dmae() -> Diagram:
    boxes = [
        Box(20, 40, 150, 60, "given", ("candidate, history", "frozen vectors of", "text and of image")),
        Box(20, 170, 150, 50, "given", ("candidate, history", "ids, categories")),
        Box(215, 40, 140, 60, "serves", ("similarities r", "each action's, in", "each modality")),
        Box(400, 40, 140, 60, "serves", ("MIEU, Eq. 1 to 4", "how alike, and", "how long ago")),
        Box(585, 40, 160, 60, "serves", ("MIFU, Eq. 5 to 9", "neighbours exchange,", "modalities pool others")),
        Box(400, 170, 140, 50, "serves", ("DIN, Eq. 14", "pooled history")),
        Box(790, 105, 140, 60, "serves", ("last network", "all side by side ->", "click?  Eq. 15")),
        Box(585, 165, 160, 60, "trains", ("IDDU, Eq. 10 to 13", "tells r's distribution", "over time and size")),
        Box(790, 190, 140, 44, "trains", ("loss, Eq. 16, 17", "clicked or not")),
    ]
    arrows = [
        Arrow([(170, 70), (213, 70)]),
        Arrow([(355, 70), (398, 70)]),
        Arrow([(540, 70), (583, 70)]),
        Arrow([(170, 195), (398, 195)]),
        Arrow([(745, 70), (768, 70), (768, 125), (788, 125)]),
        Arrow([(540, 185), (562, 185), (562, 135), (788, 135)]),
        Arrow([(665, 100), (665, 163)], trains=True),
        Arrow([(860, 165), (860, 188)], trains=True),
    ]
    return Diagram("dmae", 950, 240, boxes, arrows)


def main() -> None:
    for diagram in (karma(), t2diff(), ulim(), dmae()):
        (FIGURES / f"{diagram.name}.svg").write_text(diagram.drawn())
        print(FIGURES / f"{diagram.name}.svg")


if __name__ == "__main__":
    main()
