"""A run or an evaluation as one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, ClassVar, Protocol

import vertebra
from vertebra.data.catalogue import Sample
from vertebra.files import replacing
from vertebra.metrics.evaluation import Evaluation, written
from vertebra.viz import alignment, plots

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d8dee5 }
img { max-width: 100% } table { border-collapse: collapse } td, th { padding: .2rem .8rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f3f6f9 }
pre { background: #f3f6f9; padding: 1rem; overflow: auto } .numbers { display: flex; flex-wrap: wrap; gap: 1rem }
.numbers div { background: #f3f6f9; border-radius: 8px; padding: .6rem 1rem }
.numbers b { display: block; font-size: 1.4rem }
.wrong { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0; width: 130px; font-size: .8rem; overflow-wrap: anywhere }
figure img { image-rendering: pixelated } .bad { color: #b3261e }
figure.pair { width: 100% }
table.sentences td { text-align: left; white-space: pre-wrap }
p.words span { padding: .1rem; border-radius: 3px }
table.alignment { margin: .3rem 0 1.6rem }
table.alignment th { padding: 0 .1rem; font-weight: normal; font-size: .8rem }
table.alignment td { width: 1.1rem; height: 1.1rem; padding: 0; border: 1px solid #eef1f4 }
figure.pair img { image-rendering: auto; max-width: 49%; margin-right: 1%; vertical-align: top }
"""
TILES = 12
"""Metrics that are shown large; the others follow in a table."""


class Kind(Protocol):
    """The part of a kind of prediction that a report needs; see `kinds.base.Kind`."""

    has_classes: ClassVar[bool]

    def noun(self, samples: Sequence[Sample]) -> str: ...

    def sections(self, evaluation: Evaluation, samples: Sequence[Sample]) -> Iterator[tuple[str, str]]: ...

    def named_row(self, row: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]: ...


def as_json(evaluation: Evaluation, kind: Kind) -> str:
    """The evaluation for other programs: metrics, classes, a row per image, and the unreadable images."""
    content = {
        "metrics": evaluation.metrics,
        "classes": list(evaluation.classes),
        "images": [kind.named_row(row, evaluation.classes) for row in evaluation.rows],
        "unreadable": evaluation.unreadable,
    }
    return json.dumps(content, indent=1)


def save(folder: Path, *, kind: Kind, evaluation: Evaluation, **more: Any) -> None:
    """Writes evaluation.json and report.html into `folder`; the other arguments are those of `write`."""
    with replacing(folder / "evaluation.json") as temporary:
        temporary.write_text(as_json(evaluation, kind))
    write(folder / "report.html", kind=kind, evaluation=evaluation, **more)


def write(
    path: Path,
    *,
    title: str,
    kind: Kind,
    evaluation: Evaluation,
    samples: Sequence[Sample],
    history: Sequence[Mapping[str, float]] = (),
    config: str = "",
    problems: Sequence[str] = (),
    sections: Sequence[tuple[str, str]] = (),
) -> None:
    """Writes the report: the metrics, and the sections of the kind of prediction.

    Args:
        kind: of the predictions.
        samples: those that were evaluated, in that order; those with the largest errors are shown.
        history: a row per epoch, as a run's metrics.csv has them; without it there are no curves and no timings.
        config: the run's settings as YAML.
        problems: one sentence per image or annotation that was skipped.
        sections: heading and HTML of each further one.
    """
    images, classes = len(evaluation.rows), len(evaluation.classes)
    noun = kind.noun(samples)
    counts = f"{images} {noun if images != 1 else noun.removesuffix('es' if noun.endswith('ches') else 's')}"
    if classes and kind.has_classes:
        counts += f", {classes} class{'es' * (classes != 1)}"
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{counts}.</p>"]
    numbers = list(evaluation.numbers.items())
    tiles = "".join(f"<div><b>{written(value, 4)}</b>{escape(name)}</div>" for name, value in numbers[:TILES])
    parts.append(f'<div class="numbers">{tiles}</div>')
    if history:
        figure = plots.curves(history, evaluation.names)
        parts += ["<h2>Training</h2>", plots.plot(figure, "losses, scores and learning rate by epoch")]
    for heading, content in (*kind.sections(evaluation, samples), *sections):
        parts += [f"<h2>{heading}</h2>", content]
    if numbers[TILES:]:
        parts += ["<h2>More numbers</h2>", _table([(name, written(value, 4)) for name, value in numbers[TILES:]])]
    if problems:
        items = "".join(f'<li class="bad">{escape(sentence)}</li>' for sentence in problems)
        parts += [f"<h2>Skipped ({len(problems)})</h2>", f"<ul>{items}</ul>"]
    if history:
        parts += ["<h2>Timings</h2>", _timings(history)]
    if config:
        parts += ["<h2>Config</h2>", f"<pre>{escape(config)}</pre>"]
    write_page(path, title, parts)


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Writes a page of HTML `parts`."""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><script>{alignment.SCRIPT}</script></head><body>{''.join(parts)}"
        f"<p><small>vertebra {vertebra.__version__}</small></p></body></html>"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in rows) + "</table>"


def _timings(history: Sequence[Mapping[str, float]]) -> str:
    total = sum(row["seconds"] for row in history)
    waiting = sum(row["waiting"] * row["seconds"] for row in history) / max(1e-9, total)
    return _table(
        [
            ("epochs", f"{len(history)}"),
            ("total", f"{total:.1f} s"),
            ("per epoch, validation included", f"{total / len(history):.1f} s"),
            ("waiting for images", f"{waiting:.1%} of the training steps' time"),
        ]
    )
