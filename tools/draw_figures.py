"""Draws the figures of the backbones', tasks' and attention's pages: docs/backbones/figures/*.svg and so on.

    python tools/draw_figures.py                 # all
    python tools/draw_figures.py swin overview   # some
    python tools/draw_figures.py --also FOLDER   # and PNG copies there, to look at

`overview` plots src/vertebra/ledger/facts.json; draw it again when counts change. The others show the architectures of
families and methods, and what attention computes. Coordinates are pixels from the top left; every figure is 820 wide.
Drawing twice gives the same bytes, as long as matplotlib is the same.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Outline
from torch import Tensor

from vertebra.attention import Attention, HardAttention, LocalMonotonicAttention, LocalPredictiveAttention
from vertebra.attention.masks import causal_mask, padding_mask, sliding_mask
from vertebra.attention.positions import RelativeBias, Rotary, Sinusoidal
from vertebra.attention.scores import Additive, Cosine, Dot, Gaussian
from vertebra.ledger import FOLDER as LEDGER

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 820

INK, MUTED, LINES, FRAME = "#2f3b43", "#7b8a94", "#b4c0c7", "#cfd8dc"
EDGES = {
    "blue": "#4f81b0",
    "orange": "#c17f3e",
    "green": "#5d945d",
    "purple": "#8069a8",
    "red": "#b9594f",
    "gray": "#90a0aa",
}
FILLS = {
    "blue": "#dbe7f3",
    "orange": "#f8e4cf",
    "green": "#dcecdc",
    "purple": "#e6dff0",
    "red": "#f5dad6",
    "gray": "#eceff1",
    "white": "#ffffff",
    "yellow": "#fdf3d5",
    "teal": "#d6ecec",
    "brown": "#ecdfd2",
    "silver": "#e3e7ea",
    "full blue": EDGES["blue"],
    "pale blue": "#e6eef6",
    "sky": "#cfe0ef",
    "steel": "#b9d1e7",
    "amber": "#f0cfa8",
    "leaf": "#c3dec3",
}

SHADES = ("white", "pale blue", "sky", "steel", "full blue")
"""Of numbers, from low to high."""

Point = tuple[float, float]
Span = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(DRAWINGS)}; without any, all")
    parser.add_argument("--also", type=Path, metavar="FOLDER", help="where PNG copies go")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(DRAWINGS)):
        parser.error(f"no figure is called {', '.join(unknown)}; there are {', '.join(DRAWINGS)}")
    matplotlib.rcParams.update({"svg.hashsalt": "vertebra", "svg.fonttype": "path", "font.family": "DejaVu Sans"})
    for name in options.names or DRAWINGS:
        figure = DRAWINGS[name]()
        folder = DOCS / next(folder for folder, group in GROUPS.items() if DRAWINGS[name] in group) / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        (folder / f"{name}.svg").write_text(compact(drawn.getvalue()), encoding="utf-8")
        if options.also:
            options.also.mkdir(parents=True, exist_ok=True)
            figure.savefig(options.also / f"{name}.png")


def compact(svg: str) -> str:
    """The same drawing in fewer bytes: short numbers and names, and nothing that is not drawn."""
    svg = re.sub(r"<\?xml.*?\?>|<!.*?>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<clipPath.*?</clipPath>| clip-path="[^"]*"|(?<=<g) id="[^"]*"', "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*</defs>", "", svg)
    svg = svg.replace("DejaVuSans-Bold-", "b").replace("DejaVuSans-", "n")
    svg = svg.replace("xlink:href", "href").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = re.sub(r"-?[1-9]\d*\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), svg)
    return "".join(f"{line.strip()}\n" for line in svg.splitlines() if line.strip())


# The pieces.


def sheet(height: int) -> Axes:
    """A white card with rounded corners, whose units are pixels from the top left."""
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor="none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(height, 0))
    ax.axis("off")
    rounded(ax, 11, 11, WIDTH - 22, height - 22, 12, facecolor="white", edgecolor=FRAME, linewidth=0.8, zorder=0)
    return ax


def rounded(ax: Axes, left: float, top: float, width: float, height: float, radius: float, **style: object) -> None:
    shape = f"round,pad=0,rounding_size={radius}"
    ax.add_patch(FancyBboxPatch((left, top), width, height, boxstyle=shape, **style))


def text(
    ax: Axes,
    x: float,
    y: float,
    words: str,
    size: float = 9,
    *,
    colour: str = INK,
    weight: str = "normal",
    align: str = "center",
) -> None:
    """Lines of text around height `y`. Baselines depend on the size only, so that neighbours are level."""
    lines, em = words.split("\n"), size / 0.72
    for i, part in enumerate(lines):
        baseline = y + (i - (len(lines) - 1) / 2) * 1.32 * em + 0.36 * em
        ax.text(x, baseline, part, size=size, color=colour, weight=weight, ha=align, va="baseline", zorder=5)


def title(ax: Axes, x: float, y: float, words: str, size: float = 10) -> None:
    text(ax, x, y, words, size, weight="bold")


def note(ax: Axes, x: float, y: float, words: str, align: str = "center") -> None:
    text(ax, x, y, words, 8, colour=MUTED, align=align)


def box(
    ax: Axes, x: float, y: float, width: float, height: float, words: str, colour: str = "blue", size: float = 9
) -> None:
    """A labelled box around (x, y)."""
    style = {"facecolor": FILLS[colour], "edgecolor": EDGES[colour], "zorder": 2}
    rounded(ax, x - width / 2, y - height / 2, width, height, 4, **style)
    text(ax, x, y, words, size)


def trapezoid(ax: Axes, x: float, y: Span, widths: Span, words: str, colour: str) -> None:
    """A box of two widths, from y[0] to y[1]: a layer that changes the number of channels."""
    (top, bottom), (above, below) = y, widths
    corners = [(x - above / 2, top), (x + above / 2, top), (x + below / 2, bottom), (x - below / 2, bottom)]
    ax.add_patch(Polygon(corners, facecolor=FILLS[colour], edgecolor=EDGES[colour], zorder=2))
    text(ax, x, (top + bottom) / 2, words)


def line(ax: Axes, *points: Point, colour: str = INK, width: float = 1, dashed: bool = False, zorder: int = 1) -> None:
    xs, ys = zip(*points, strict=True)
    dashes = (0, (4, 2.5)) if dashed else "-"
    ax.plot(xs, ys, color=colour, linewidth=width, linestyle=dashes, solid_capstyle="round", zorder=zorder)


def arrow(ax: Axes, *points: Point, colour: str = INK, dashed: bool = False, over: bool = False) -> None:
    """A line of level and upright pieces with a head, which ends just before the last point; `over` boxes and grids."""
    (x0, y0), (x1, y1) = points[-2:]
    dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    tip = x1 - 1.6 * dx, y1 - 1.6 * dy
    zorder = 4 if over else 1
    line(ax, *points[:-1], tip, colour=colour, dashed=dashed, zorder=zorder)
    back, side = (tip[0] - 4.4 * dx, tip[1] - 4.4 * dy), (2.2 * dy, 2.2 * dx)
    head = [(back[0] - side[0], back[1] - side[1]), tip, (back[0] + side[0], back[1] + side[1])]
    ax.add_patch(Polygon(head, facecolor=colour, edgecolor=colour, zorder=zorder))


def downward(ax: Axes, x: float, *spans: Span) -> None:
    for top, bottom in spans:
        arrow(ax, (x, top), (x, bottom))


def rightward(ax: Axes, y: float, *spans: Span) -> None:
    for left, right in spans:
        arrow(ax, (left, y), (right, y))


def knot(ax: Axes, x: float, y: float, times: bool = False) -> None:
    """A circle of radius 8 with a plus, or with a multiplication sign."""
    ax.add_patch(Circle((x, y), 8, facecolor="white", edgecolor=INK, zorder=2))
    for dx, dy in ((3.2, 3.2), (3.2, -3.2)) if times else ((4.4, 0), (0, 4.4)):
        line(ax, (x - dx, y - dy), (x + dx, y + dy), zorder=3)


def grid(ax: Axes, x: float, y: float, cell: float, rows: Sequence[Sequence[str]], framed: bool = True) -> None:
    """Cells of the colours in `rows`, from the corner (x, y) on."""
    places = defaultdict(list)
    for i, row in enumerate(rows):
        for j, colour in enumerate(row):
            places[colour].append((x + j * cell, y + i * cell))
    for colour, corners in places.items():
        cells = [[(a, b), (a + cell, b), (a + cell, b + cell), (a, b + cell), (a, b)] for a, b in corners]
        outline = Outline.make_compound_path(*(Outline(points, closed=True) for points in cells))
        ax.add_patch(PathPatch(outline, facecolor=FILLS[colour], edgecolor=LINES, linewidth=0.6, zorder=2))
    if framed:
        outlined(ax, x, y, len(rows[0]) * cell, len(rows) * cell)


def outlined(ax: Axes, x: float, y: float, width: float, height: float, colour: str = INK, thick: float = 1) -> None:
    ax.add_patch(Rectangle((x, y), width, height, facecolor="none", edgecolor=colour, linewidth=thick, zorder=3))


def white(rows: int, columns: int) -> list[list[str]]:
    return [["white"] * columns for _ in range(rows)]


# The figures.


def asmlp() -> Figure:
    ax = sheet(340)
    colours = ["sky", "green", "yellow", "orange", "red"]
    cells, side, top = 7, 26, 78
    title(ax, 141, 36, "A row of the map")
    title(ax, 391, 36, "Shifted across")
    note(ax, 500, 65, "moved")
    moved = [["white"] * cells for _ in colours]
    for i, colour in enumerate(colours):
        shift, y = i - 2, top + (i + 0.5) * side
        note(ax, 36, y, "ABCDE"[i])
        note(ax, 500, y, f"{shift:+d}".replace("-", "−") if shift else "0")
        for j in range(cells):
            text(ax, 63 + j * side, y, str(j + 1), 8)
            source = j - shift
            inside = 0 <= source < cells
            moved[i][j] = colour if inside else "white"
            text(ax, 313 + j * side, y, str(source + 1 if inside else 0), 8, colour=INK if inside else MUTED)
    grid(ax, 50, top, side, [[colour] * cells for colour in colours])
    grid(ax, 300, top, side, moved)
    outlined(ax, 378, top, side, 5 * side, EDGES["red"], 1.8)
    arrow(ax, (240, 143), (290, 143))
    note(ax, 270, 238, "5 groups of channels (down), 7 cells (across);\nwhat leaves is lost, what enters is zero")
    note(ax, 270, 286, "a 1 × 1 layer at the red cell now sees cells 2 to 6,\na fifth of the channels of each")

    title(ax, 670, 36, "Mixing in a block")
    downward(ax, 670, (56, 72), (244, 260), (288, 306))
    box(ax, 670, 86, 180, 28, "1 × 1, norm, GELU", "gray")
    line(ax, (670, 100), (670, 108))
    for x, words, edge in ((610, "shift across", 662), (730, "shift down", 678)):
        arrow(ax, (670, 108), (x, 108), (x, 124))
        box(ax, x, 142, 100, 36, words, "orange")
        downward(ax, x, (160, 176))
        box(ax, x, 192, 100, 32, "1 × 1, GELU")
        arrow(ax, (x, 208), (x, 236), (edge, 236))
    knot(ax, 670, 236)
    box(ax, 670, 274, 180, 28, "norm, 1 × 1", "gray")
    return ax.figure


def biglittle() -> Figure:
    ax = sheet(320)
    title(ax, 86, 35, "One stage")
    grid(ax, 50, 130, 12, white(6, 6))
    note(ax, 86, 216, "input")
    text(ax, 176, 43, "big: half the resolution, all channels, all blocks but one", align="left")
    text(ax, 176, 281, "little: full resolution, 1 / α of the channels, 1 / β of the blocks", align="left")
    line(ax, (126, 166), (150, 166))
    for y in (92, 240):
        arrow(ax, (150, 166), (150, y), (178, y))
    for x, words in ((216, "block,\nstride 2"), (308, "block"), (400, "block")):
        box(ax, x, 92, 76, 58, words)
    box(ax, 496, 92, 74, 34, "2 × up", "gray")
    rightward(ax, 92, (254, 270), (346, 362), (438, 459))
    box(ax, 216, 240, 76, 28, "block", "green")
    box(ax, 496, 240, 74, 34, "1 × 1", "orange")
    rightward(ax, 240, (254, 459))
    arrow(ax, (533, 92), (566, 92), (566, 158))
    arrow(ax, (533, 240), (566, 240), (566, 174))
    knot(ax, 566, 166)
    rightward(ax, 166, (574, 604), (680, 708))
    box(ax, 642, 166, 76, 58, "block,\nwith the\nstride", "purple")
    grid(ax, 710, 148, 12, white(3, 3))
    note(ax, 728, 199, "output")
    return ax.figure


def cyclemlp() -> Figure:
    ax = sheet(350)
    channels = 9
    plain, cycle = white(channels, 5), white(channels, 5)
    for i in range(channels):
        plain[i][2] = cycle[i][2 + (i + 1) % 3 - 1] = "full blue"
        for x in (46, 266):
            note(ax, x, 76 + 20 * i, str(i))
    for x, rows in ((70, plain), (290, cycle)):
        grid(ax, x, 66, 20, rows)
        outlined(ax, x + 40, 66, 20, 20 * channels, EDGES["red"], 1.8)
    title(ax, 120, 35, "1 × 1 layer")
    title(ax, 340, 35, "Cycle FC, along the width")
    note(ax, 120, 272, "every channel is read\nin the cell itself")
    note(ax, 340, 272, "channel i is read\n(i + 1) mod 3 − 1 cells on")
    note(ax, 230, 316, "down: channels; across: neighbouring cells\nred: the cell that is computed; blue: what is read")

    title(ax, 640, 35, "Mixing in a block")
    line(ax, (640, 56), (640, 76))
    for x, words, colour in (
        (545, "Cycle FC,\nwidth", "blue"),
        (735, "1 × 1,\nin place", "green"),
        (640, "Cycle FC,\nheight", "blue"),
    ):
        arrow(ax, (640, 76), (x, 76), (x, 100))
        box(ax, x, 120, 84, 40, words, colour, 8)
        downward(ax, x, (140, 168))
    box(ax, 640, 184, 274, 32, "weighted sum (split attention)", "orange")
    box(ax, 640, 238, 84, 32, "linear", "gray")
    downward(ax, 640, (200, 222), (254, 280))
    return ax.figure


def dla() -> Figure:
    ax = sheet(330)
    title(ax, 410, 35, "A tree of height 3: 8 blocks, 4 roots")
    note(ax, 410, 60, "a root is a 1 × 1 convolution over everything that points at it; red: answers of earlier roots")
    text(ax, 40, 110, "x", 10)
    text(ax, 758, 247, "y", 10)
    blocks = [110 + 86 * i for i in range(8)]
    roots = {1: 185, 3: 225, 5: 185, 7: 262}  # heights, by the block above
    rightward(ax, 110, (48, 84), *((blocks[i] + 26, blocks[i] + 60) for i in range(0, 8, 2)))
    for i, x in enumerate(blocks):
        box(ax, x, 110, 52, 34, f"block\n{i + 1}", size=8)
    for i, y in roots.items():
        last = i == 7
        first, second, enters = blocks[i - 1], blocks[i], 245 if last else y
        half = 26 if last else 14
        downward(ax, second, (127, y - half))
        arrow(ax, (first, 127), (first, enters), (second - 26, enters))
        box(ax, second, y, 52, 2 * half, "root", "orange")
        if not last:
            arrow(ax, (second + 26, y), (second + 43, y), (second + 43, 110), (second + 60, 110))
    for source, target, y in ((1, 3, 235), (5, 7, 256), (3, 7, 267)):
        start = blocks[source], roots[source] + 14
        arrow(ax, start, (blocks[source], y), (blocks[target] - 26, y), colour=EDGES["red"])
    arrow(ax, (56, 110), (56, 278), (blocks[7] - 26, 278), colour=EDGES["red"], dashed=True)
    note(ax, 66, 294, "the pooled input of the level goes to its last root, except at stride 4", "left")
    rightward(ax, 262, (738, 774))
    return ax.figure


def efficientnetv2() -> Figure:
    ax = sheet(380)
    title(ax, 170, 36, "Fused-MBConv")
    trapezoid(ax, 170, (94, 130), (80, 220), "3 × 3", "blue")
    trapezoid(ax, 170, (206, 242), (220, 80), "1 × 1", "orange")
    downward(ax, 170, (56, 94), (130, 206), (242, 264), (280, 302))
    text(ax, 178, 62, "C channels", align="left")
    note(ax, 178, 168, "4 C channels", "left")
    arrow(ax, (170, 74), (298, 74), (298, 272), (178, 272))
    knot(ax, 170, 272)

    title(ax, 500, 36, "MBConv")
    trapezoid(ax, 500, (84, 114), (80, 220), "1 × 1", "orange")
    box(ax, 500, 147, 220, 30, "depthwise 3 × 3")
    box(ax, 500, 195, 220, 30, "squeeze-and-excitation", "green")
    trapezoid(ax, 500, (224, 254), (220, 80), "1 × 1", "orange")
    downward(ax, 500, (56, 84), (114, 132), (162, 180), (210, 224), (254, 264), (280, 302))
    text(ax, 508, 60, "C channels", align="left")
    note(ax, 508, 123, "4 C or 6 C channels", "left")
    arrow(ax, (500, 70), (630, 70), (630, 272), (508, 272))
    knot(ax, 500, 272)
    note(ax, 714, 150, "the sum only where\ninput and output\nhave the same shape;\nthe first stage does\nnot widen")
    note(ax, 714, 240, "the seventh stage\nonly in M, L and XL")

    stages = [("stem", "green", 2)]
    stages += [("Fused", "blue", stride) for stride in (2, 4, 8)]
    stages += [("MBConv", "orange", stride) for stride in (16, 16, 32, 32)]
    for i, (words, colour, stride) in enumerate(stages):
        x = 78 + 94 * i
        box(ax, x, 330, 76, 24, words, colour)
        note(ax, x, 353, f"stride {stride}")
        if i:
            rightward(ax, 330, (x - 56, x - 38))
    return ax.figure


def gmlp() -> Figure:
    ax = sheet(290)
    title(ax, 410, 36, "A block")
    rightward(ax, 130, (40, 66), (126, 146), (548, 572), (672, 712), (728, 780))
    arrow(ax, (52, 130), (52, 60), (720, 60), (720, 122))
    box(ax, 96, 130, 60, 40, "norm", "gray", 8)
    box(ax, 196, 130, 100, 40, "linear to 6 C,\nGELU", size=8)
    line(ax, (246, 130), (270, 130))
    arrow(ax, (270, 130), (270, 96), (540, 96), (540, 122))
    arrow(ax, (270, 130), (270, 178), (292, 178))
    text(ax, 410, 84, "half of the channels, as they are", 8)
    box(ax, 322, 178, 60, 40, "norm", "gray", 8)
    rightward(ax, 178, (352, 372))
    box(ax, 436, 178, 128, 40, "linear over patches", "orange", 8)
    text(ax, 410, 214, "the other half: the gate", 8)
    arrow(ax, (500, 178), (540, 178), (540, 138))
    knot(ax, 540, 130, times=True)
    box(ax, 622, 130, 100, 40, "linear to C", size=8)
    knot(ax, 720, 130)
    note(
        ax, 410, 250, "the gate begins as 1 everywhere, so that a block begins as a perceptron for each patch by itself"
    )
    return ax.figure


def hrnet() -> Figure:
    ax = sheet(350)
    colours, ys, heights = ("blue", "green", "orange", "purple"), (92, 150, 208, 266), (44, 34, 24, 16)
    stages = ((178, 1), (312, 2), (458, 3), (620, 4))
    box(ax, 64, 92, 48, 52, "stem", "gray")
    rightward(ax, 92, (88, 132), (224, 266))
    arrow(ax, (234, 92), (240, 92), (240, 150), (266, 150), colour=EDGES["green"])
    for number, (x, branches) in enumerate(stages, 1):
        title(ax, x, 43, f"stage {number}", 9)
        for i in range(branches):
            box(ax, x, ys[i], 92, heights[i], "4 blocks", colours[i], 8)
    title(ax, 755, 43, "branches", 9)
    for i in range(4):
        box(ax, 755, ys[i], 46, heights[i], "", colours[i])
        note(ax, 755, ys[i] + heights[i] / 2 + 11, f"stride {4 * 2**i}")
    # Exchanges, between the end of a stage and the next boxes.
    for branches, left, right, end in ((2, 362, 392, 412), (3, 508, 554, 574), (4, 670, 710, 732)):
        for i in range(branches):
            for j in range(branches):
                line(ax, (left, ys[i]), (right, ys[j]), colour=EDGES[colours[i]], width=0.8)
            line(ax, (left - 4, ys[i]), (left, ys[i]))
            rightward(ax, ys[i], (right, end))
        if branches < 4:
            lowest, new = ys[branches - 1], ys[branches]
            arrow(ax, (right + 6, lowest), (right + 6, new), (end, new), colour=EDGES[colours[branches]])
    note(
        ax,
        410,
        307,
        "crossing lines: every branch gets the sum of all, brought to its own resolution and width;\n"
        "blocks and exchange come 1, 4 and 3 times in stages 2, 3 and 4; the small variants have fewer",
    )
    return ax.figure


def mixer() -> Figure:
    ax = sheet(290)
    title(ax, 112, 36, "Patches as a table")
    grid(ax, 40, 70, 18, white(6, 8))
    note(ax, 112, 200, "a row per patch,\na column per channel")
    arrow(ax, (192, 124), (232, 124))

    title(ax, 365, 36, "Token mixing")
    grid(ax, 240, 70, 18, [["white"] * 2 + ["orange"] + ["white"] * 5] * 6)
    outlined(ax, 276, 70, 18, 108, EDGES["orange"], 1.8)
    box(ax, 446, 124, 88, 44, "perceptron\nover patches", "orange", 8)
    rightward(ax, 124, (384, 402), (490, 524))
    note(ax, 365, 200, "the same for every channel;\nas wide as there are patches")

    title(ax, 657, 36, "Channel mixing")
    grid(ax, 532, 70, 18, [["blue" if i == 3 else "white"] * 8 for i in range(6)])
    outlined(ax, 532, 124, 144, 18, EDGES["blue"], 1.8)
    box(ax, 738, 124, 88, 44, "perceptron\nover channels", size=8)
    rightward(ax, 124, (676, 694))
    note(ax, 657, 200, "the same for every patch")
    note(ax, 410, 250, "a block is both, each after a norm and added to its input")
    return ax.figure


def overview() -> Figure:
    families = {
        "resnet": "ResNet",
        "res2net": "Res2Net",
        "dla": "DLA",
        "biglittle": "bLNet",
        "hrnet": "HRNet",
        "efficientnetv2": "EfficientNetV2",
        "vit": "ViT, DeiT",
        "swin": "Swin",
        "cyclemlp": "CycleMLP",
        "asmlp": "AS-MLP",
        "mixer": "Mixer",
        "resmlp": "ResMLP",
        "gmlp": "gMLP",
        "vip": "ViP",
        "s2mlp": "S²-MLP",
    }
    looks = {name: ("osD"[i // 5], list(EDGES.values())[i % 5]) for i, name in enumerate(families)}
    points: dict[tuple[str, bool], set[Point]] = {
        (name, hollow): set() for name in families for hollow in (False, True)
    }
    for row in json.loads((LEDGER / "facts.json").read_text(encoding="utf-8")):
        hollow = {224: False, 384: True}[row["size"]]
        points[row["family"], hollow].add((row["parameters"] / 1e6, row["macs"] / 1e9))

    height = 560
    card = sheet(height)
    ax = card.figure.add_axes((78 / WIDTH, 67 / height, 541 / WIDTH, 448 / height))
    ax.set(xscale="log", yscale="log", axisbelow=True)
    ax.spines[:].set_visible(False)
    ax.margins(x=0.06, y=0.06)
    for (name, hollow), places in points.items():
        marker, colour = looks[name]
        style = {"markeredgecolor": colour, "markerfacecolor": "white" if hollow else colour, "markersize": 6}
        for place in sorted(places):
            ax.plot(*place, marker, alpha=0.9, clip_on=False, **style)
    for axis, ticks, words in (
        (ax.xaxis, (5, 10, 20, 50, 100, 200, 500), "parameters, millions"),
        (ax.yaxis, (1, 2, 5, 10, 20, 50, 100), "multiply-adds, 10⁹ per image"),
    ):
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_ticks((), minor=True)
        axis.set_label_text(words, size=9, color=INK)
        axis.set_tick_params(labelsize=8, labelcolor=INK, color=INK)
        axis.grid(color="#e3e8eb", linewidth=0.7)
    for i, (name, words) in enumerate(families.items()):
        y = 127 + 20.25 * i
        card.plot(654, y, looks[name][0], color=looks[name][1], markersize=6, alpha=0.9)
        text(card, 671, y, words, align="left")
    note(card, 700, 483, "filled: at 224 × 224\nhollow: at 384 × 384")
    return card.figure


def res2net() -> Figure:
    ax = sheet(400)
    title(ax, 130, 36, "Bottleneck")
    for y, words, colour in ((90, "1 × 1", "orange"), (200, "3 × 3", "blue"), (310, "1 × 1", "orange")):
        box(ax, 130, y, 120, 32, words, colour)
    downward(ax, 130, (54, 74), (106, 184), (216, 294), (326, 342), (358, 378))
    arrow(ax, (130, 62), (212, 62), (212, 350), (138, 350))
    knot(ax, 130, 350)

    title(ax, 500, 36, "Res2Net block, 4 groups")
    box(ax, 500, 90, 440, 32, "1 × 1", "orange")
    box(ax, 500, 310, 440, 32, "1 × 1, sees all groups again", "orange")
    columns = [335, 445, 555, 665]
    for x, number in zip(columns, "₁₂₃₄", strict=True):
        text(ax, x + 8, 121, f"x{number}", align="left")
        text(ax, x + 8, 270, f"y{number}", align="left")
    for x in columns[:3]:
        box(ax, x, 200, 66, 32, "3 × 3")
        downward(ax, x, (216, 294))
    downward(ax, columns[0], (106, 184))
    downward(ax, columns[3], (106, 294))
    for before, x in pairwise(columns[:3]):
        downward(ax, x, (106, 142), (158, 184))
        knot(ax, x, 150)
        arrow(ax, (before, 240), (before + 55, 240), (before + 55, 150), (x - 8, 150), colour=EDGES["red"])
    note(ax, 700, 200, "the last group\npasses", "left")
    downward(ax, 500, (54, 74), (326, 342), (358, 378))
    arrow(ax, (500, 62), (268, 62), (268, 350), (492, 350))
    knot(ax, 500, 350)
    note(ax, 520, 375, "fields seen: y₁ 3 × 3; y₂ to 5 × 5; y₃ to 7 × 7", "left")
    return ax.figure


def resmlp() -> Figure:
    ax = sheet(270)
    title(ax, 410, 36, "A block")
    rightward(ax, 120, (84, 104), (162, 182), (266, 286), (340, 360))
    rightward(ax, 120, (376, 396), (454, 474), (582, 602), (656, 676), (692, 712))
    arrow(ax, (92, 120), (92, 74), (368, 74), (368, 112))
    arrow(ax, (384, 120), (384, 74), (684, 74), (684, 112))
    box(ax, 133, 120, 58, 40, "scale,\noffset", "gray", 8)
    box(ax, 224, 120, 84, 40, "linear over\npatches", "orange", 8)
    box(ax, 313, 120, 54, 40, "small\nscale", "gray", 8)
    knot(ax, 368, 120)
    box(ax, 425, 120, 58, 40, "scale,\noffset", "gray", 8)
    box(ax, 528, 120, 108, 40, "perceptron over\nchannels", size=8)
    box(ax, 629, 120, 54, 40, "small\nscale", "gray", 8)
    knot(ax, 684, 120)
    note(ax, 224, 166, "patches exchange\nby one matrix")
    note(ax, 528, 166, "each patch for itself")
    note(
        ax,
        410,
        216,
        "scale, offset: one number each per channel, in place of a norm;\n"
        "small scale: one number per channel that begins near zero, so that a block begins as the identity",
    )
    return ax.figure


def resnet() -> Figure:
    ax = sheet(350)
    title(ax, 150, 36, "Basic block")
    text(ax, 160, 61, "x", align="left")
    box(ax, 150, 110, 130, 32, "3 × 3, norm, ReLU")
    box(ax, 150, 170, 130, 32, "3 × 3, norm")
    downward(ax, 150, (58, 94), (126, 154), (186, 246), (262, 300))
    text(ax, 160, 216, "f(x)", align="left")
    arrow(ax, (150, 74), (245, 74), (245, 254), (158, 254))
    knot(ax, 150, 254)
    text(ax, 160, 292, "ReLU(f(x) + x)", align="left")
    note(ax, 150, 318, "resnet18, resnet34")

    title(ax, 420, 36, "Bottleneck")
    text(ax, 430, 63, "4 w channels", align="left")
    trapezoid(ax, 420, (94, 126), (180, 70), "1 × 1", "orange")
    box(ax, 420, 170, 70, 32, "3 × 3")
    text(ax, 463, 170, "w channels", align="left")
    trapezoid(ax, 420, (204, 236), (70, 180), "1 × 1", "orange")
    downward(ax, 420, (58, 94), (126, 154), (186, 204), (236, 246), (262, 300))
    arrow(ax, (420, 74), (540, 74), (540, 254), (428, 254))
    knot(ax, 420, 254)
    note(ax, 420, 318, "resnet50 and larger; ResNeXt: the 3 × 3 in groups")

    title(ax, 690, 36, "The whole")
    for i, width in enumerate((100, 80, 60, 44, 32)):
        y = 80 + 48 * i
        box(ax, 622, y, width, 26, "", "blue" if i else "green")
        text(ax, 682, y, f"{f'stage {i}' if i else 'stem'}, stride {2 ** (i + 1)}", align="left")
        if i:
            downward(ax, 622, (y - 35, y - 13))
    note(ax, 690, 318, "each gives a map")
    return ax.figure


def s2mlp() -> Figure:
    ax = sheet(310)
    moves = (
        (1, 0, "to the right", "blue"),
        (-1, 0, "to the left", "green"),
        (0, 1, "down", "orange"),
        (0, -1, "up", "purple"),
    )
    for i, (dx, dy, words, colour) in enumerate(moves):
        x = 44 + 122 * i
        cells = white(5, 5)
        cells[2][2], cells[2 + dy][2 + dx] = "gray", colour
        title(ax, x + 50, 41, f"quarter {i + 1}", 9)
        grid(ax, x, 70, 20, cells)
        arrow(ax, (x + 50 - 2 * dx, 120 - 2 * dy), (x + 50 + 20 * dx, 120 + 20 * dy), over=True)
        note(ax, x + 50, 186, words)
    note(ax, 278, 228, "a quarter of the channels moves by one cell each;\ncells at the border keep what nobody brings")

    title(ax, 670, 36, "A block")
    for y, words, colour in ((78, "norm, linear, GELU", "blue"), (122, "shift", "orange"), (166, "linear", "blue")):
        box(ax, 670, y, 150, 28, words, colour)
    box(ax, 670, 232, 150, 28, "norm, perceptron")
    downward(ax, 670, (50, 64), (92, 108), (136, 152), (180, 190), (206, 218), (246, 254), (270, 288))
    arrow(ax, (670, 56), (766, 56), (766, 198), (678, 198))
    arrow(ax, (670, 212), (766, 212), (766, 262), (678, 262))
    knot(ax, 670, 198)
    knot(ax, 670, 262)
    return ax.figure


def swin() -> Figure:
    ax = sheet(350)
    side, top = 24, 74
    colours = dict(zip("ABCDEFGHI", ("red", "orange", "yellow", "green", "blue", "purple", "teal", "brown", "silver")))
    regions = ["AABBBBCC"] * 2 + ["DDEEEEFF"] * 4 + ["GGHHHHII"] * 2
    rolled = [row[2:] + row[:2] for row in regions[2:] + regions[:2]]
    maps = (
        (34, [["blue"] * 4 + ["orange"] * 4] * 4 + [["green"] * 4 + ["purple"] * 4] * 4, (0, 4, 8)),
        (314, [[colours[letter] for letter in row] for row in regions], (0, 2, 6, 8)),
        (594, [[colours[letter] for letter in row] for row in rolled], (0, 4, 8)),
    )
    for x, cells, borders in maps:
        grid(ax, x, top, side, cells)
        for i, start in enumerate(borders[:-1]):
            for j, begin in enumerate(borders[:-1]):
                sides = (borders[j + 1] - begin) * side, (borders[i + 1] - start) * side
                outlined(ax, x + begin * side, top + start * side, *sides, thick=1.8)
    for x, rows in ((314, regions), (594, rolled)):
        for letter in colours:
            spots = [(i, j) for i, row in enumerate(rows) for j, other in enumerate(row) if other == letter]
            row, column = (sum(place) / len(spots) + 0.5 for place in zip(*spots, strict=True))
            text(ax, x + column * side, top + row * side, letter, 10)
    title(ax, 130, 36, "Windows")
    note(ax, 130, 292, "cells attend to each other\ninside a window (here 4 × 4)")
    title(ax, 410, 36, "Shifted by half a window")
    note(ax, 410, 292, "every second block:\nneighbours across the old borders meet")
    title(ax, 690, 36, "As it is computed")
    note(ax, 690, 292, "rolled: four windows again; a mask\nkeeps different letters apart")
    return ax.figure


def vip() -> Figure:
    ax = sheet(350)
    column = [["white"] * 2 + ["orange"] + ["white"] * 3] * 6
    row = [["blue" if i == 2 else "white"] * 6 for i in range(6)]
    place = white(6, 6)
    place[2][2] = "green"
    for x, words, cells, seen, colour in (
        (110, "Along the height", column, (40, 0, 20, 120), "orange"),
        (290, "Along the width", row, (0, 40, 120, 20), "blue"),
        (470, "In place", place, (40, 40, 20, 20), "green"),
    ):
        title(ax, x, 35, words)
        grid(ax, x - 60, 62, 20, cells)
        outlined(ax, x - 60 + seen[0], 62 + seen[1], *seen[2:], EDGES[colour], 1.8)
        box(ax, x, 222, 90, 32, "linear", colour)
        downward(ax, x, (184, 206), (238, 262))
    box(ax, 290, 278, 450, 32, "weighted sum (split attention), linear", "purple")
    downward(ax, 290, (294, 320))
    title(ax, 680, 35, "What a layer sees")
    note(
        ax,
        680,
        150,
        "The channels are cut into as many\nsegments as a column has cells.\n\nThe layer takes one segment of\n"
        "every cell of the column, so its\ninput is as long as the channels,\nand mixes cells and channels at once.\n\n"
        "Rows likewise.",
    )
    return ax.figure


def vit() -> Figure:
    ax = sheet(390)
    shades = ["sky", "blue", "steel", "pale blue", "orange", "amber", "blue", "green", "leaf"]
    title(ax, 92, 36, "Patches")
    for i, shade in enumerate(shades):
        x, y = 44 + 34 * (i % 3), 60 + 34 * (i // 3)
        grid(ax, x, y, 28, [[shade]])
    note(ax, 92, 176, "16 × 16 pixels each")
    arrow(ax, (152, 108), (196, 108))

    title(ax, 430, 36, "Tokens")
    tokens = [222 + 44 * i for i in range(2 + len(shades))]
    box(ax, tokens[0], 108, 36, 36, "class", "purple", 7)
    box(ax, tokens[1], 108, 36, 36, "distill.", "red", 7)
    for x, shade in zip(tokens[2:], shades, strict=True):
        box(ax, x, 108, 36, 36, "")
        grid(ax, x - 13, 95, 26, [[shade]], framed=False)
    for i, x in enumerate(tokens):
        knot(ax, x, 144)
        line(ax, (x, 163), (x, 152))
        box(ax, x, 174, 36, 22, str(i), "gray", 7)
    note(ax, 694, 108, "patches, each by\na linear layer", "left")
    note(ax, 694, 174, "positions", "left")

    downward(ax, 430, (187, 210))
    outlined(ax, 205, 212, 460, 76, MUTED, 0.8)
    rightward(ax, 250, (205, 226), (266, 281), (355, 374), (390, 410), (450, 470), (570, 592), (608, 665))
    arrow(ax, (214, 250), (214, 226), (382, 226), (382, 242))
    arrow(ax, (400, 250), (400, 226), (600, 226), (600, 242))
    box(ax, 246, 250, 40, 28, "norm", "gray", 8)
    box(ax, 318, 250, 74, 28, "attention", "orange")
    knot(ax, 382, 250)
    box(ax, 430, 250, 40, 28, "norm", "gray", 8)
    box(ax, 520, 250, 100, 28, "perceptron")
    knot(ax, 600, 250)
    note(ax, 676, 250, "× 12, 24 or 32 blocks", "left")

    downward(ax, 262, (288, 316))
    arrow(ax, (420, 288), (420, 316), dashed=True)
    downward(ax, 580, (288, 316))
    box(ax, 262, 334, 130, 34, "head on class token", "purple", 8)
    box(ax, 420, 334, 148, 34, "head on distillation\ntoken (DeiT)", "red", 8)
    box(ax, 580, 334, 130, 34, "patches: the map", size=8)
    return ax.figure


# The figures of tasks.

LEVELS = ((292, 96, "4"), (236, 74, "8"), (180, 54, "16"), (124, 40, "32"))  # height, width, stride


def maps(ax: Axes, x: float, colour: str, levels: Sequence[tuple[float, float, str]] = LEVELS) -> None:
    """A map of every level around `x`, the coarsest on top."""
    for y, width, stride in levels:
        box(ax, x, y, width, 28, stride, colour, 8)


def example_image(ax: Axes, x: float, y: float, boxes: bool = False) -> None:
    """An image of two objects, 84 x 64, whose top left corner is (x, y); with their boxes if `boxes`."""
    ax.add_patch(Rectangle((x, y), 84, 64, facecolor=FILLS["gray"], edgecolor=INK, zorder=2))
    ax.add_patch(Circle((x + 25, y + 38), 15, facecolor=FILLS["amber"], edgecolor=EDGES["orange"], zorder=3))
    corners = [(x + 48, y + 34), (x + 61, y + 10), (x + 74, y + 34)]
    ax.add_patch(Polygon(corners, facecolor=FILLS["leaf"], edgecolor=EDGES["green"], zorder=3))
    if boxes:
        outlined(ax, x + 9, y + 22, 32, 32, EDGES["orange"], 1.6)
        outlined(ax, x + 46, y + 8, 30, 28, EDGES["green"], 1.6)


def two_stage() -> Figure:
    ax = sheet(380)
    title(ax, 68, 36, "Image", 9)
    example_image(ax, 26, 260)
    title(ax, 184, 36, "Backbone", 9)
    title(ax, 304, 36, "Pyramid", 9)
    arrow(ax, (110, 292), (136, 292))
    maps(ax, 184, "gray")
    maps(ax, 304, "blue", (*LEVELS, (68, 30, "64")))
    for (y, width, _), above in zip(LEVELS, (236, 180, 124, 68), strict=True):
        rightward(ax, y, (184 + width / 2, 304 - width / 2))
        line(ax, (304 + width / 2, y), (370, y))
        if above > 68:
            arrow(ax, (184, y - 14), (184, above + 14))
            arrow(ax, (304, above + 14), (304, y - 14))
        else:
            arrow(ax, (304, y - 14), (304, above + 14))
    line(ax, (319, 68), (370, 68), (370, 292))
    note(ax, 200, 342, "the numbers are strides: input pixels per cell;\nevery map of the pyramid has 256 channels")

    title(ax, 472, 36, "1. Proposals", 9)
    arrow(ax, (370, 96), (394, 96))
    box(ax, 472, 96, 156, 56, "proposal network:\n3 anchors per cell,\nobjectness and deltas", "purple", 8)
    downward(ax, 472, (124, 160), (206, 269))
    box(ax, 472, 183, 156, 46, "the 1000 top-scoring\nproposals", "gray", 8)
    title(ax, 680, 36, "2. RoI heads", 9)
    arrow(ax, (370, 292), (394, 292))
    box(ax, 472, 292, 156, 46, "RoIAlign, from the level\nfor the RoI's size", "green", 8)
    line(ax, (550, 292), (572, 292))
    for y, words, colour, output, extra in (
        (292, "keypoint head,\n14 × 14 cells", "red", "keypoints", True),
        (208, "mask head,\n14 × 14 cells", "red", "mask", True),
        (124, "box head,\n7 × 7 cells", "orange", "class, score,\nrefined box", False),
    ):
        arrow(ax, (572, 292), (572, y), (594, y), dashed=extra)
        box(ax, 644, y, 100, 42, words, colour, 8)
        arrow(ax, (694, y), (712, y), dashed=extra)
        text(ax, 716, y, output, 8, align="left")
    note(ax, 610, 342, "both stages are trained together;\nmasks and keypoints of the final boxes")
    return ax.figure


def cascade() -> Figure:
    ax = sheet(270)
    xs = (250, 440, 630)
    box(ax, 82, 150, 96, 40, "proposals", "purple", 8)
    arrow(ax, (130, 150), (196, 150))
    for i, x in enumerate(xs):
        title(ax, x, 40, f"stage {i + 1}", 9)
        note(ax, x, 62, f"IoU of {0.5 + i / 10} or more")
        box(ax, x - 4, 98, 100, 30, "RoIAlign, 7 × 7", "green", 8)
        box(ax, x - 4, 150, 100, 34, "box head", "orange", 8)
        downward(ax, x - 4, (113, 133), (167, 196))
        note(ax, x - 4, 208, "classes")
        if i < 2:
            arrow(ax, (x + 46, 150), (x + 136, 150))
            arrow(ax, (x + 91, 150), (x + 91, 98), (x + 136, 98))
            note(ax, x + 91, 162, "refined boxes")
    arrow(ax, (163, 150), (163, 98), (196, 98))
    arrow(ax, (676, 150), (712, 150))
    text(ax, 717, 150, "boxes", align="left")
    line(ax, (246, 220), (246, 232), (626, 232), (626, 220))
    line(ax, (436, 220), (436, 232))
    arrow(ax, (626, 232), (712, 232))
    text(ax, 717, 232, "mean", align="left")
    return ax.figure


def retinanet() -> Figure:
    ax = sheet(330)
    title(ax, 110, 36, "Pyramid", 9)
    levels = ((268, 74, "8"), (218, 58, "16"), (168, 44, "32"), (118, 34, "64"), (68, 28, "128"))
    maps(ax, 110, "blue", levels)
    for y, width, _ in levels:
        line(ax, (110 + width / 2, y), (196, y))
    line(ax, (196, 68), (196, 268))
    note(ax, 110, 304, "strides; the same heads for all")
    for y, words, colour, last, output in (
        (110, "classes", "orange", "9 anchors × K", "of each anchor, a sigmoid\nper class"),
        (226, "boxes", "green", "9 anchors × 4", "deltas to the\nbox of its object"),
    ):
        arrow(ax, (196, y), (230, y))
        for i in range(4):
            box(ax, 254 + 62 * i, y, 48, 40, "3 × 3", colour, 8)
            rightward(ax, y, (278 + 62 * i, 292 + 62 * i))
        box(ax, 530, y, 104, 40, f"3 × 3 to\n{last}", colour, 8)
        arrow(ax, (582, y), (604, y))
        text(ax, 610, y, output, 8, align="left")
        title(ax, 347, y - 36, words, 9)
    note(ax, 450, 304, "9 anchors per cell: three ratios in three sizes")
    return ax.figure


def pyramids() -> Figure:
    ax = sheet(370)
    levels = ((282, 84, "4"), (226, 64, "8"), (170, 48, "16"), (114, 36, "32"))
    title(ax, 146, 36, "FPN")
    note(ax, 146, 58, "most families")
    maps(ax, 86, "gray", levels)
    maps(ax, 206, "blue", levels)
    for i, (y, width, _) in enumerate(levels):
        rightward(ax, y, (86 + width / 2, 206 - width / 2))
        if i:
            downward(ax, 206, (y + 14, levels[i - 1][0] - 14))
    note(ax, 146, 330, "every map to one width,\nplus the upsampled coarser one")

    title(ax, 410, 36, "HRFPN")
    note(ax, 410, 58, "HRNet, with neck.name=hrfpn")
    maps(ax, 330, "gray", levels)
    for y, width, _ in levels:
        line(ax, (330 + width / 2, y), (382, y))
    line(ax, (382, 114), (382, 282))
    arrow(ax, (382, 198), (392, 198))
    box(ax, 416, 198, 46, 44, "join,\n1 × 1", "orange", 8)
    line(ax, (439, 198), (449, 198))
    line(ax, (449, 114), (449, 282))
    for y, width, _ in levels:
        arrow(ax, (449, y), (498 - width / 2, y))
    maps(ax, 498, "blue", levels)
    note(ax, 410, 330, "all maps joined at stride 4,\nthen pooled again")

    title(ax, 680, 36, "Simple pyramid")
    note(ax, 680, 58, "single-scale families, such as ViT")
    box(ax, 604, 170, 48, 28, "16", "gray", 8)
    line(ax, (628, 170), (640, 170))
    line(ax, (640, 114), (640, 282))
    for (y, width, _), words in zip(levels, ("4 × up", "2 × up", "", "½"), strict=True):
        arrow(ax, (640, y), (740 - width / 2, y))
        note(ax, 664, y - 10, words)
    maps(ax, 740, "blue", levels)
    note(ax, 680, 330, "deconvolution and pooling\nof the single map")
    return ax.figure


def one_map() -> Figure:
    ax = sheet(360)
    for y, words, stage in (
        (112, "ResNet, Res2Net", "last stage of\nthe backbone"),
        (256, "Other families", "3 bottleneck\nblocks"),
    ):
        spared = y < 200
        ax.text(34, y - 58, words, size=9, color=INK, weight="bold", zorder=5)
        for i in range(3 if spared else 4):
            x, half = 52 + 50 * i, 31 - 7 * i
            box(ax, x, y, 38, 2 * half, str(4 * 2**i), "gray", 8)
            if i:
                rightward(ax, y, (x - 31, x - 19))
            if not spared:
                line(ax, (x, y + half), (x, y + 44))
        if spared:
            line(ax, (171, y), (340, y))
        else:
            line(ax, (52, y + 44), (240, y + 44))
            arrow(ax, (240, y + 44), (240, y), (256, y))
            box(ax, 291, y, 70, 40, "join at 16,\n1 × 1", "orange", 8)
            line(ax, (326, y), (340, y))
        for dy in (-34, 24):
            arrow(ax, (340, y), (340, y + dy), (360, y + dy))
        box(ax, 418, y - 34, 116, 32, "proposal network", "purple", 8)
        box(ax, 418, y + 24, 116, 42, "RoIAlign,\n14 × 14 cells", "green", 8)
        downward(ax, 418, (y - 18, y + 3))
        rightward(ax, y + 24, (476, 500))
        box(ax, 548, y + 24, 96, 42, stage, "blue", 8)
        note(ax, 616, y + 34, "7 × 7")
        line(ax, (596, y + 24), (640, y + 24))
        for dy, output in ((0, "mean: class and box"), (48, "twice as large: mask")):
            arrow(ax, (640, y + 24), (640, y + dy), (660, y + dy))
            text(ax, 666, y + dy, output, 8, align="left")
    note(ax, 410, 336, "the numbers are strides; everything right of RoIAlign is computed for every RoI")
    return ax.figure


def stack(ax: Axes, x: float, rows: list[list[str]]) -> None:
    """Maps one behind the other; the first is visible."""
    for shift in (16, 8):
        ax.add_patch(Rectangle((x + shift, 100 - shift), 84, 84, facecolor="white", edgecolor=LINES, zorder=2))
    grid(ax, x, 100, 6, rows)


def masks() -> Figure:
    ax = sheet(300)
    title(ax, 84, 36, "RoI", 9)
    grid(ax, 42, 92, 6, white(14, 14))
    note(ax, 84, 210, "14 × 14 cells,\n256 channels")
    arrow(ax, (126, 134), (147, 134))
    for i in range(4):
        box(ax, 168 + 56 * i, 134, 42, 44, "3 × 3", "blue", 8)
        rightward(ax, 134, (189 + 56 * i, 203 + 56 * i))
    box(ax, 398, 134, 54, 44, "2 × up", "orange", 8)
    box(ax, 460, 134, 42, 44, "1 × 1", "green", 8)
    rightward(ax, 134, (425, 439), (481, 498))
    title(ax, 556, 36, "A mask per class", 9)
    rows = [["amber" if (i - 6.5) ** 2 + (j - 6.5) ** 2 < 34 else "white" for j in range(14)] for i in range(14)]
    stack(ax, 500, rows)
    note(ax, 556, 210, "28 × 28 cells; the one of the\npredicted class")
    arrow(ax, (606, 134), (680, 134))
    title(ax, 724, 36, "Image", 9)
    example_image(ax, 682, 102, boxes=True)
    note(ax, 724, 210, "pasted into the box,\nthreshold 0.5")
    note(
        ax,
        410,
        256,
        "class: one sigmoid per class and pixel, so classes do not compete; agnostic: one mask for all classes;\n"
        "softmax: a softmax over classes and background in every pixel",
    )
    return ax.figure


def keypoints() -> Figure:
    ax = sheet(280)
    title(ax, 84, 36, "RoI", 9)
    grid(ax, 42, 92, 6, white(14, 14))
    note(ax, 84, 204, "14 × 14 cells,\n256 channels")
    arrow(ax, (126, 134), (148, 134))
    box(ax, 210, 134, 124, 52, "3 × 3, eight times,\n512 channels", size=8)
    box(ax, 344, 134, 112, 52, "deconvolution,\nthen bilinear 2 ×", "orange", 8)
    rightward(ax, 134, (272, 288), (400, 430))
    title(ax, 490, 36, "A heatmap per keypoint", 9)
    spread = {0: "full blue", 1: "steel", 2: "sky"}
    rows = [[spread.get(max(abs(i - 4), abs(j - 8)), "white") for j in range(14)] for i in range(14)]
    stack(ax, 432, rows)
    note(ax, 490, 204, "56 × 56 cells;\na softmax over them")
    arrow(ax, (540, 134), (606, 134))
    note(ax, 572, 122, "maximum")
    title(ax, 690, 36, "Image", 9)
    ax.add_patch(Rectangle((612, 72), 156, 112, facecolor=FILLS["gray"], edgecolor=INK, zorder=2))
    outlined(ax, 636, 84, 108, 90, EDGES["orange"], 1.6)
    places = [(690, 96), (724, 130), (690, 162), (656, 130)]
    line(ax, *places, places[0], colour=EDGES["green"], width=1.6, zorder=3)
    for i, (x, y) in enumerate(places):
        colour = EDGES["blue"] if i == 0 else EDGES["green"]
        ax.add_patch(Circle((x, y), 4.5, facecolor=colour, edgecolor="white", zorder=4))
    note(ax, 690, 204, "x, y and score")
    note(ax, 410, 250, "names, skeleton and left-right pairs of the keypoints come from the data")
    return ax.figure


def shaded(ax: Axes, x: float, y: float, cell: float, values: Tensor) -> None:
    """A grid of `values` [rows, columns] in five shades of blue, a fifth of their range each."""
    low, high = values.aminmax()
    shade = ((values - low) / (high - low) * 5).long().clamp(max=4)
    grid(ax, x, y, cell, [[SHADES[i] for i in row] for row in shade.tolist()])


def scores() -> Figure:
    """What each score gives the keys of a plane, for one query."""
    ax = sheet(320)
    query = torch.tensor([[1.2, 0.6]])
    axis = torch.linspace(-2, 2, 13)
    keys = torch.stack(torch.meshgrid(-axis, axis, indexing="ij")[::-1], -1).flatten(0, 1)  # rows from the top
    additive = Additive(2, 2, 2)
    additive.query.weight.data = additive.key.weight.data = torch.tensor([[1.0, 0.0], [-0.6, 1.2]])
    additive.sum.weight.data = torch.tensor([[1.0, 0.8]])
    panels = (("dot", Dot()), ("cosine", Cosine()), ("Gaussian", Gaussian()), ("additive", additive))
    for i, (name, score) in enumerate(panels):
        x = 40 + 192 * i
        title(ax, x + 78, 36, name, 9)
        with torch.no_grad():
            shaded(ax, x, 62, 12, score(query, keys).view(13, 13))
        center = x + 78, 140
        tip = center[0] + 36 * float(query[0, 0]), center[1] - 36 * float(query[0, 1])
        line(ax, center, tip, colour=EDGES["orange"], width=1.6, zorder=4)
        ax.add_patch(Circle(tip, 4, facecolor=EDGES["orange"], edgecolor="white", zorder=5))
    for i, words in enumerate(
        (
            "grows with the length\nof the key",
            "by the direction alone",
            "by the distance alone",
            "a learned network; these\nweights are an example",
        )
    ):
        note(ax, 118 + 192 * i, 244, words)
    note(ax, 410, 288, "the plane holds all keys of two components; orange: the query; dark: a high score")
    return ax.figure


def multi_head() -> Figure:
    ax = sheet(280)
    for y, name, shade in ((70, "query", "blue"), (140, "key", "green"), (210, "value", "orange")):
        box(ax, 60, y, 66, 32, name, shade, 8)
        for i in range(3):
            box(ax, 152 + 4 * i, y - 8 + 8 * i, 56, 22, "linear" if i == 2 else "", shade, 8)
        rightward(ax, y, (93, 124))
    for i in range(3):
        box(ax, 270 + 4 * i, 132 + 8 * i, 104, 52, "attention,\nhead by head" if i == 2 else "", "purple", 8)
    for y, target in ((70, 132), (140, 140), (210, 152)):
        points = [(188, y), (206, y), (206, target), (218, target)] if y != 140 else [(188, y), (218, y)]
        arrow(ax, *points)
    box(ax, 378, 140, 64, 42, "joined", "gray", 8)
    rightward(ax, 140, (330, 346), (410, 426))
    box(ax, 456, 140, 58, 42, "linear", "gray", 8)
    rightward(ax, 140, (485, 506))
    note(ax, 274, 226, "every head has its part of\nthe projected channels")
    n = 8
    masks = (
        ("padding", padding_mask(torch.tensor(5), n).expand(n, n)),
        ("causal", causal_mask(n)),
        ("both", padding_mask(torch.tensor(5), n) & causal_mask(n)),
    )
    for i, (name, mask) in enumerate(masks):
        x = 532 + 88 * i
        title(ax, x + 36, 76, name, 8)
        grid(ax, x, 92, 9, [["steel" if allowed else "white" for allowed in row] for row in mask.tolist()])
    note(ax, 656, 206, "masks: a row for each query,\na column for each key;\nblue, True: may attend")
    return ax.figure


def positions() -> Figure:
    ax = sheet(330)
    encoding = Sinusoidal()(torch.zeros(24, 16)).T
    title(ax, 150, 36, "Sinusoidal")
    shaded(ax, 30, 62, 10, encoding)
    note(ax, 150, 250, "a column for each position, a row for each\nchannel: waves from short to long")
    title(ax, 410, 36, "Rotary")
    plot = ax.figure.add_axes((322 / WIDTH, 1 - 214 / 330, 200 / WIDTH, 152 / 330))
    ones = torch.ones(65, 64)
    plot.plot(torch.arange(65), Rotary()(ones[:1], ones)[0].flip(0), color=EDGES["blue"], linewidth=1.4)
    plot.spines[["top", "right"]].set_visible(False)
    plot.tick_params(labelsize=7, labelcolor=INK, color=INK)
    plot.set_xticks([0, 16, 32, 48, 64])
    note(ax, 410, 250, "the score of two equal vectors, by their\ndistance in positions")
    title(ax, 680, 36, "Relative bias")
    bias = RelativeBias((12,), 1)
    offset = torch.arange(-11.0, 12.0)
    bias.bias_table.data = (-offset.abs() + 0.5 * offset)[:, None]
    with torch.no_grad():
        shaded(ax, 602, 62, 13, bias(torch.zeros(12, 1), torch.zeros(12, 1))[0])
    note(ax, 680, 250, "queries by keys: one learned number for\neach diagonal; these are an example")
    note(ax, 410, 298, "added to the input (left); turning query and key (middle); added to the scores (right)")
    return ax.figure


def windows() -> Figure:
    ax = sheet(290)
    n, window = 12, 4
    place = torch.arange(n)
    groups = (place // window, (place + window // 2) // window)
    masks = (
        ("full", torch.ones(n, n, dtype=torch.bool), "all pairs"),
        ("windows", groups[0][:, None] == groups[0], "blocks on the diagonal"),
        ("shifted windows", groups[1][:, None] == groups[1], "blocks between them"),
        ("sliding", sliding_mask(n, 2), "a band: two positions\nto either side"),
        ("sliding, causal", sliding_mask(n, 2, causal=True), "to one side"),
    )
    for i, (name, mask, words) in enumerate(masks):
        x = 34 + 154 * i
        title(ax, x + 66, 38, name, 9)
        grid(ax, x, 62, 11, [["steel" if allowed else "white" for allowed in row] for row in mask.tolist()])
        note(ax, x + 66, 216, words)
    note(ax, 410, 258, "12 positions; a row for each query, a column for each key; blue: may attend")
    return ax.figure


def kernel() -> Figure:
    height = 360
    card = sheet(height)
    generator = torch.Generator().manual_seed(1)
    keys = torch.rand(40, 1, generator=generator).sort(0).values * 5
    values = 2 * keys.sin() + keys**0.8 + 0.5 * torch.randn(40, 1, generator=generator)
    queries = torch.linspace(0, 5, 201)[:, None]
    axes = card.figure.add_axes((60 / WIDTH, 56 / height, 500 / WIDTH, 270 / height))
    axes.plot(keys, values, "o", color=EDGES["gray"], markersize=4, label="samples")
    for sigma, colour in ((0.05, "orange"), (0.25, "blue"), (1.0, "green")):
        estimate = Attention(Gaussian(sigma))(queries, keys, values)
        axes.plot(queries, estimate, color=EDGES[colour], linewidth=1.5, label=f"width {sigma:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, labelcolor=INK, color=INK)
    axes.set_xlabel("query, key", size=9, color=INK)
    axes.set_ylabel("value", size=9, color=INK)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    note(
        card,
        690,
        180,
        "narrow: follows the noise\nof the nearest sample\n\nwide: levels the curve",
    )
    return card.figure


def local() -> Figure:
    """Weights of eight queries over a source of twelve positions, two of whose parts have changed places."""
    generator = torch.Generator().manual_seed(0)
    place = torch.linspace(0, 11, 12)[:, None]
    order = torch.tensor([5.0, 6.0, 7.0, 0.0, 1.5, 3.0, 9.0, 10.5])[:, None]
    key = torch.cat([place, torch.rand(12, 1, generator=generator) * 3], 1)
    query = torch.cat([order, torch.rand(8, 1, generator=generator) * 3], 1)
    predictive = LocalPredictiveAttention(Gaussian(2.5), 2, 2)
    predictive.position[0].weight.data = torch.tensor([[0.1, 0.0], [0.0, 0.0]])
    predictive.position[2].weight.data = torch.tensor([[3.0, 0.0]])
    # The sigmoid starts at the middle of the source, so the place is counted from there.
    shifted = [x - torch.tensor([6.0, 0.0]) for x in (query, key)]
    panels = (
        ("global", "all positions", Attention(Gaussian(2.5))),
        ("local-m", "within 2 of the query's position", LocalMonotonicAttention(Gaussian(2.5), 2)),
        ("local-p", "within 2 of a predicted position", predictive),
    )
    ax = sheet(262)
    for i, (name, words, mechanism) in enumerate(panels):
        x = 40 + 256 * i
        title(ax, x + 114, 34, name)
        note(ax, x + 114, 54, words)
        with torch.no_grad():
            shaded(ax, x, 70, 19, mechanism.weights(*shifted))
            if mechanism is predictive:
                for row, center in enumerate(predictive.centers(*shifted).tolist()):
                    mark = x + 19 * (center + 0.5)
                    line(ax, (mark, 75 + 19 * row), (mark, 84 + 19 * row), colour=EDGES["orange"], width=2, zorder=4)
    note(ax, 410, 238, "a row for each query, a column for each source position; orange: the predicted positions")
    return ax.figure


def embeddings() -> Figure:
    ax = sheet(300)
    title(ax, 148, 36, "structured")
    note(ax, 148, 56, "learned hops instead of a query")
    hops = torch.tensor([[0.1, 0.9, 0.4, 0, 0, 0, 0], [0, 0, 0, 0.3, 0.9, 0.6, 0], [0.6, 0, 0, 0, 0, 0.2, 0.9]])
    for i, row in enumerate(hops):
        y = 92 + 34 * i
        text(ax, 50, y + 11, f"hop {i + 1}", 8)
        shaded(ax, 74, y, 20, row[None])
        arrow(ax, (214, y + 10), (234, y + 10))
        box(ax, 252, y + 10, 34, 22, f"m{i + 1}")
    grid(ax, 74, 214, 20, [["silver"] * 7])
    text(ax, 50, 224, "words", 8)
    arrow(ax, (144, 214), (144, 184))
    note(ax, 148, 268, "weights of three hops over seven words")

    title(ax, 412, 36, "hierarchical")
    note(ax, 412, 56, "words, then sentences")
    sentences = ([1, 4, 1, 0], [3, 1, 0, 3], [0, 1, 4, 0])
    box(ax, 412, 88, 60, 24, "document", "purple", 8)
    for i, (words, shade) in enumerate(zip(sentences, (1, 4, 2), strict=True)):
        x = 330 + 82 * i
        grid(ax, x - 10, 126, 20, [[SHADES[shade]]])
        arrow(ax, (x, 181), (x, 146))
        box(ax, x, 193, 50, 24, f"s{i + 1}", "orange")
        arrow(ax, (x, 236), (x, 205))
        grid(ax, x - 34, 236, 17, [[SHADES[w] for w in words]])
    arrow(ax, (412, 126), (412, 100))
    arrow(ax, (330, 126), (330, 88), (382, 88))
    arrow(ax, (494, 126), (494, 88), (442, 88))
    note(ax, 412, 268, "weights of words and of sentences")

    title(ax, 678, 36, "nested")
    note(ax, 678, 56, "words, then the characters of one")
    letters, words = (
        ((SHADES[0], "a"), (SHADES[0], "p"), (SHADES[1], "p"), (SHADES[1], "e"), (SHADES[4], "l")),
        (
            (SHADES[0], "he"),
            (SHADES[1], "ate"),
            (SHADES[1], "an"),
            (SHADES[4], "appel"),
        ),
    )
    for y, cells, step in ((130, letters, 24), (216, words, 44)):
        left = 678 - len(cells) * step / 2 + (28 if cells is letters else 0)
        for i, (shade, word) in enumerate(cells):
            grid(ax, left + i * step + step / 2 - 10, y, 20, [[shade]])
            text(ax, left + i * step + step / 2, y + 32, word, 8, colour=MUTED)
    arrow(ax, (744, 216), (744, 174))
    box(ax, 706, 93, 108, 24, "context of letters", "purple", 8)
    arrow(ax, (706, 130), (706, 105))
    box(ax, 598, 146, 80, 38, "context of\nwords", "orange", 8)
    line(ax, (612, 206), (700, 206))
    for x in (656, 700):
        line(ax, (x, 216), (x, 206))
    arrow(ax, (612, 216), (612, 165))
    note(ax, 678, 268, "weights, at the l of apple")
    return ax.figure


def memory() -> Figure:
    """What the network attends to that docs/attention/memory.md trains."""
    page = (DOCS / "attention/memory.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], scope)
    words, network = scope["WORDS"], scope["network"]
    ax = sheet(300)
    for i, (index, facts) in enumerate(((0, "one fact"), (32, "two facts"))):
        story, question = scope["story"][index], scope["question"][index]
        x, asked = 50 + 390 * i, words[int(question)]
        asked = asked.capitalize() if i == 0 else f"the {asked}"
        answer = words[int(scope["answer"][index])]
        title(ax, x + 165, 36, f"Where is {asked}?  {answer.capitalize()}.")
        note(ax, x + 165, 56, facts)
        for hop in range(2):
            note(ax, x + 240 + 60 * hop, 80, f"hop {hop + 1}")
        with torch.no_grad():
            weights = network.weights(story, question)
        for row, (person, thing) in enumerate(story.tolist()):
            y = 92 + 21 * row
            verb = "is in the" if thing > 8 else "has the"
            text(ax, x, y + 10, f"{words[person].capitalize()} {verb} {words[thing]}.", 9, align="left")
            for hop in range(2):
                shade = SHADES[min(int(5 * weights[hop, row]), 4)]
                style = {"facecolor": FILLS[shade], "edgecolor": LINES, "linewidth": 0.6, "zorder": 2}
                ax.add_patch(Rectangle((x + 222 + 60 * hop, y), 36, 21, **style))
                colour = "white" if weights[hop, row] > 0.8 else INK
                text(ax, x + 240 + 60 * hop, y + 10, f"{weights[hop, row]:.2f}", 8, colour=colour)
    note(ax, 410, 280, "weights of a trained network; every row is a sentence of the story")
    return ax.figure


def hard() -> Figure:
    ax = sheet(278)
    axis = torch.arange(7.0)
    cells = torch.cartesian_prod(axis, axis)
    query = torch.tensor([[2.2, 3.8]])
    attention = HardAttention(Gaussian(1.1), soft=0)
    weights = attention.weights(query, cells).view(7, 7)
    torch.manual_seed(2)
    row, column = attention.sample(query, cells, cells).output[0].tolist()
    drawn = attention.sample(query.expand(100, 1, 2), cells, cells).output[:, 0]
    counts = (drawn[:, None] == cells).all(-1).sum(0).view(7, 7)
    for i, (name, words, values) in enumerate(
        (
            ("soft", "the mean of all cells, by their weights", weights),
            ("hard", "one cell, drawn by the weights", weights),
            ("100 draws", "how often a cell was drawn", counts.float()),
        )
    ):
        x = 62 + 256 * i
        title(ax, x + 91, 34, name)
        note(ax, x + 91, 54, words)
        shaded(ax, x, 68, 26, values)
        if name == "hard":
            outlined(ax, x + 26 * column, 68 + 26 * row, 26, 26, EDGES["orange"], 2.4)
    return ax.figure


BACKBONES = (
    asmlp,
    biglittle,
    cyclemlp,
    dla,
    efficientnetv2,
    gmlp,
    hrnet,
    mixer,
    overview,
    res2net,
    resmlp,
    resnet,
    s2mlp,
    swin,
    vip,
    vit,
)
TASKS = (two_stage, cascade, retinanet, one_map, pyramids, masks, keypoints)
ATTENTION = (scores, multi_head, positions, windows, kernel, local, embeddings, memory, hard)
GROUPS = {"backbones": BACKBONES, "tasks": TASKS, "attention": ATTENTION}
DRAWINGS: dict[str, Callable[[], Figure]] = {
    drawing.__name__: drawing for group in GROUPS.values() for drawing in group
}


if __name__ == "__main__":
    main()
