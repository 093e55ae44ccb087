"""Outside `kinds/` and `tasks/` no file branches on a kind, task, method, field of Target or metrics class."""

import ast
import re
from pathlib import Path

import pytest

import vertebra
from vertebra import kinds, tasks

ROOT = Path(vertebra.__file__).parent
ALLOWED = {
    "kinds/": "they are what differs",
    "tasks/": "they are what differs",
    "data/formats/": "fill the fields of Target",
    "data/annotations.py": "what formats share",
    "data/augment/custom.py": "fills the fields of Target after a user's transforms",
    "data/exports.py": "what the formats of annotation tools share",
    "data/datasets.py": "fills the fields of Target from a user's Dataset",
    "data/geometry.py": "reads and moves every field of Target",
    "metrics/coco/": "has an IoU type named keypoints",
}
"""Files and folders that may, and why."""
EXCEPTIONS = {"data/reading.py": ["'label' in catalogue.has"] * 2}
"""A val split that is set apart keeps the share of each class; a class of the whole image is a tag."""
FIELDS = ("label", "boxes", "masks", "keypoints", "semantic")
METRICS = ("CocoMetrics", "ClassificationMetrics")
ATTRIBUTES = ("kind", "task", "method", "task_name", "target_field", "monitor")
PLACES = [
    path for path in sorted(ROOT.rglob("*.py")) if not path.relative_to(ROOT).as_posix().startswith(tuple(ALLOWED))
]


def branches(text: str) -> list[str]:
    """The conditions in Python source that decide by the name of a kind, task, method, field of Target or metrics."""
    names = {*kinds.names(), *tasks.names(), *(m for task in tasks.names() for m in tasks.methods(task)), *FIELDS}
    result = []
    for node in ast.walk(ast.parse(text)):
        source = ast.unparse(node) if isinstance(node, ast.Compare | ast.Call | ast.Match) else ""
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            words = {word for side in sides for word in _words(side)}
            if names & words or (words and any(isinstance(side, ast.Attribute) and _asks(side) for side in sides)):
                result.append(source)
        if isinstance(node, ast.Call) and re.search(rf"^isinstance\(.*({'|'.join(METRICS)})", source):
            result.append(source)
        if isinstance(node, ast.Call) and re.search(r"^isinstance\(.*\b(Objects|Category|Boxes)\b", source):
            result.append(source)
        if isinstance(node, ast.Match) and re.search(r"^match .*\b(kind|method|target_field|task_name)\b", source):
            result.append(source.splitlines()[0])
        if isinstance(node, ast.Attribute) and node.attr in ("truth", "finds_objects"):
            result.append(ast.unparse(node))
    return result


def _words(node: ast.expr) -> list[str]:
    """The non-empty strings that an expression is, or lists."""
    elements = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return [e.value for e in elements if isinstance(e, ast.Constant) and isinstance(e.value, str) and e.value]


def _asks(node: ast.Attribute) -> bool:
    """Whether an attribute says which kind, task, method or field something is of, as in `task.kind`, `kind.name`."""
    owner = ast.unparse(node.value).rpartition(".")[2]
    if owner == "options" and node.attr == "kind":  # of a part of a model
        return False
    return node.attr in ATTRIBUTES or (node.attr == "name" and owner in ("kind", "task", "method"))


@pytest.mark.parametrize("path", PLACES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_branches_on_what_is_predicted(path):
    assert branches(path.read_text()) == EXCEPTIONS.get(path.relative_to(ROOT).as_posix(), [])


@pytest.mark.parametrize(
    "line",
    [
        "if task.kind == 'boxes': pass",
        "if kind.name != 'values': pass",
        "x = 1 if kind.target_field == 'label' else 2",
        "if task.task_name in ('detection', 'instance'): pass",
        "if 'boxes' in catalogue.has: pass",
        "if isinstance(metrics, CocoMetrics): pass",
        "if isinstance(metrics, (int, CocoMetrics)): pass",
        "if self.predictor.kind.name == 'boxes': pass",
        "match kind.name:\n    case 'boxes': pass",
        "if field == 'masks': pass",
        "if settings.method == 'retinanet': pass",
        "x = task.truth",
    ],
)
def test_branches_are_detected(line):
    assert branches(line)


@pytest.mark.parametrize(
    "line",
    [
        "if name in kind.options: pass",
        "if kind.target_field in catalogue.has: pass",
        "if options.task in ('', method['task']): pass",
        "if self.options.kind == 'softmax': pass",
        "if settings.method is None: pass",
        "if prediction.masks is not None: pass",
        "x = {'boxes': boxes}",
    ],
)
def test_asking_the_kind_is_allowed(line):
    assert not branches(line)
