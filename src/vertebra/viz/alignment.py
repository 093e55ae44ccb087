"""Alignments: how much each token of a translation attends to each token of its source, or a class to each word."""

from __future__ import annotations

import base64
import json
from html import escape

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vertebra.structures import Alignment
from vertebra.viz import fonts

MAX_TOKENS = 80
"""Tokens of each side that are shown."""
MAX_WORDS = 2000
"""Words of a text that are shown."""
COLOUR = (11, 85, 159)
STRONGEST = 0.6
"""Share of COLOUR behind the word with the largest weight, on which dark letters can be read."""
MAX_NAMED = 40
"""Tokens of a side that are written beside the matrices of single heads."""
SCRIPT = f"""
function showHead(select) {{
  const bytes = atob(JSON.parse(select.parentElement.dataset.weights)[select.value]);
  const [head, ...rows] = select.parentElement.querySelectorAll("tr"), width = head.cells.length - 1;
  rows.forEach((row, i) => [...row.cells].slice(1).forEach((cell, j) => {{
    const weight = bytes.charCodeAt(i * width + j) / 255;
    const colour = [{", ".join(map(str, COLOUR))}].map(c => Math.round(255 + (c - 255) * Math.min(1, weight)));
    cell.style.background = `rgb(${{colour}})`;
    cell.title = `${{row.cells[0].textContent}} looks at ${{head.cells[j + 1].textContent}}: ${{weight.toFixed(2)}}`;
  }}));
}}
"""
"""Of pages with a `table`: shows the weights of the layer and head that is chosen in it."""


def matrix(alignment: Alignment) -> Figure:
    """The mean over the heads of the last layer: a row per predicted token, a column per token of the source."""
    weights = alignment.matrix[:MAX_TOKENS, :MAX_TOKENS]
    height, width = weights.shape
    figure = Figure(figsize=(1.2 + 0.24 * width, 0.9 + 0.24 * height), layout="constrained")
    axes = figure.subplots()
    axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="equal")
    source, target = _shown(alignment.source), _shown(alignment.target)
    axes.set_xticks(range(width), [fonts.drawable(token) for token in source], rotation=90, parse_math=False)
    axes.set_yticks(range(height), [fonts.drawable(token) for token in target], parse_math=False)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, labelsize=9)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(f"source{_cut(alignment.source)}")
    axes.set_ylabel(f"translation{_cut(alignment.target)}")
    return figure


def heads(alignment: Alignment) -> Figure:
    """Every head of every layer: a row of matrices per layer, a column per head."""
    layers, count = alignment.weights.shape[:2]
    sides = alignment.source, alignment.target
    source, target = ([fonts.drawable(token) for token in _shown(side)] for side in sides)
    width, height = (max(2.1, 0.15 * len(side)) if len(side) <= MAX_NAMED else 2.1 for side in (source, target))
    figure = Figure(figsize=(1.2 + width * count, 1.2 + height * layers), layout="constrained")
    grid = figure.subplots(layers, count, squeeze=False)
    for layer in range(layers):
        for head in range(count):
            axes = grid[layer][head]
            weights = alignment.weights[layer, head, :MAX_TOKENS, :MAX_TOKENS]
            axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
    if len(source) <= MAX_NAMED:
        for axes in grid[-1]:
            axes.set_xticks(range(len(source)), source, rotation=90, fontsize=7, parse_math=False)
    if len(target) <= MAX_NAMED:
        for axes in grid[:, 0]:
            axes.set_yticks(range(len(target)), target, fontsize=7, parse_math=False)
    figure.supxlabel(f"source{_cut(alignment.source)}", fontsize=9)
    figure.supylabel(f"translation{_cut(alignment.target)}", fontsize=9)
    return figure


def table(alignment: Alignment) -> str:
    """The matrix as an HTML table whose cells show their weight under the pointer; of several layers or heads, with a
    choice of one, for which the page needs SCRIPT."""
    source, target = _shown(alignment.source), _shown(alignment.target)
    head = "".join(f"<th>{escape(token)}</th>" for token in source)
    rows = []
    for token, weights in zip(target, alignment.matrix.tolist(), strict=False):
        cells = "".join(_cell(weight, word, token) for weight, word in zip(weights, source, strict=False))
        rows.append(f"<tr><th>{escape(token)}</th>{cells}</tr>")
    drawn = f'<table class="alignment"><tr><th></th>{head}</tr>{"".join(rows)}</table>'
    for side, tokens in (("source", alignment.source), ("translation", alignment.target)):
        drawn += f"<p>{side}{cut}</p>" if (cut := _cut(tokens)) else ""
    layers, count = alignment.weights.shape[:2]
    if layers * count == 1:
        return drawn
    names = {"": "mean of the heads of the last layer"}
    weights = {"": alignment.matrix}
    for layer in range(layers):
        for number in range(count):
            key = f"{layer + 1}.{number + 1}"
            names[key] = f"layer {layer + 1}, head {number + 1}"
            weights[key] = alignment.weights[layer, number]
    data = {key: _encoded(x[:MAX_TOKENS, :MAX_TOKENS]) for key, x in weights.items()}
    choices = "".join(f'<option value="{key}">{name}</option>' for key, name in names.items())
    chooser = f'<select onchange="showHead(this)">{choices}</select>'
    return f'<div data-weights="{escape(json.dumps(data, separators=(",", ":")))}">{chooser}{drawn}</div>'


def text(alignment: Alignment) -> str:
    """The words of a text as HTML, coloured by their mean weight; those of all heads show under the pointer.

    Colours are relative to the largest weight, and a word has the weights of each layer and head in its title.
    """
    mean = alignment.mean[0]
    scale = max(float(mean.max()) if mean.numel() else 0.0, 1e-6)
    parts = []
    for number, word in enumerate(alignment.source[:MAX_WORDS]):
        weights = alignment.weights[:, :, 0, number].flatten().tolist()
        about = f"{float(mean[number]):.3f}"
        if len(weights) > 1:
            about += f" ({', '.join(f'{weight:.3f}' for weight in weights)})"
        colour = _colour(float(mean[number]) / scale * STRONGEST)
        parts.append(f'<span title="{about}" style="background:{colour}">{escape(word)}</span>')
    more = f" … ({len(alignment.source) - MAX_WORDS} more)" if len(alignment.source) > MAX_WORDS else ""
    return f'<p class="words">{" ".join(parts)}{more}</p>'


def _encoded(weights: Tensor) -> str:
    """Weights in 0..1, row by row, as bytes in 0..255 by base64."""
    content = (255 * weights.clamp(0, 1)).round().to(torch.uint8)
    return base64.b64encode(content.numpy().tobytes()).decode()


def _cell(weight: float, source: str, target: str) -> str:
    about = escape(f"{target} looks at {source}: {weight:.2f}")
    return f'<td title="{about}" style="background:{_colour(weight)}"></td>'


def _colour(weight: float) -> str:
    """Of a weight in 0..1, from white to COLOUR."""
    red, green, blue = (round(255 + (channel - 255) * min(1.0, weight)) for channel in COLOUR)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _cut(tokens: tuple[str, ...]) -> str:
    """How many tokens are shown, where not all are."""
    return f" (the first {MAX_TOKENS} of {len(tokens)} tokens)" if len(tokens) > MAX_TOKENS else ""


def _shown(tokens: tuple[str, ...]) -> list[str]:
    """Tokens with visible spaces, as many as are shown."""
    return [token.replace(" ", "␣") if not token.strip() else token for token in tokens[:MAX_TOKENS]]
