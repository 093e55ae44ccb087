"""Alignments: how much each token of a translation attends to each token of its source."""

from __future__ import annotations

from html import escape

from matplotlib.figure import Figure

from vertebra.structures import Alignment
from vertebra.viz import fonts

MAX_TOKENS = 80
"""Tokens of each side that are shown."""
COLOUR = (11, 85, 159)


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
    axes.set_xlabel("source")
    axes.set_ylabel("translation")
    return figure


def heads(alignment: Alignment) -> Figure:
    """Every head of every layer: a row of matrices per layer, a column per head."""
    layers, count = alignment.weights.shape[:2]
    figure = Figure(figsize=(0.4 + 2.1 * count, 0.4 + 2.1 * layers), layout="constrained")
    grid = figure.subplots(layers, count, squeeze=False)
    for layer in range(layers):
        for head in range(count):
            axes = grid[layer][head]
            weights = alignment.weights[layer, head, :MAX_TOKENS, :MAX_TOKENS]
            axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
    return figure


def table(alignment: Alignment) -> str:
    """The matrix as an HTML table whose cells show their weight under the pointer."""
    source, target = _shown(alignment.source), _shown(alignment.target)
    head = "".join(f"<th>{escape(token)}</th>" for token in source)
    rows = []
    for token, weights in zip(target, alignment.matrix.tolist(), strict=False):
        cells = "".join(_cell(weight, word, token) for weight, word in zip(weights, source, strict=False))
        rows.append(f"<tr><th>{escape(token)}</th>{cells}</tr>")
    return f'<table class="alignment"><tr><th></th>{head}</tr>{"".join(rows)}</table>'


def _cell(weight: float, source: str, target: str) -> str:
    red, green, blue = (round(255 + (channel - 255) * min(1.0, weight)) for channel in COLOUR)
    about = escape(f"{target} looks at {source}: {weight:.3f}")
    return f'<td title="{about}" style="background:#{red:02x}{green:02x}{blue:02x}"></td>'


def _shown(tokens: tuple[str, ...]) -> list[str]:
    """Tokens with visible spaces, as many as are shown."""
    return [token.replace(" ", "␣") if not token.strip() else token for token in tokens[:MAX_TOKENS]]
