"""COCO results of other tools, evaluated on a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tests.fuzz import datasets, mutate
from tests.fuzz.sweep import Case

BOXES = [
    {"image_id": 1, "category_id": 1, "bbox": [2.0, 3.0, 10.0, 8.0], "score": 0.9},
    {"image_id": 2, "category_id": 2, "bbox": [1, 1, 5, 5], "score": 0.5},
]
MASKS = [
    {"image_id": 1, "category_id": 1, "segmentation": {"size": [24, 32], "counts": [50, 6, 18, 6, 688]}, "score": 0.9},
    {"image_id": 2, "category_id": 2, "segmentation": {"size": [24, 32], "counts": "R1k0"}, "score": 0.5},
]
NUMBER = r"\d+\.(bbox\.\d|score)"


def results(rng: Random, folder: Path) -> Case:
    datasets.write_coco(folder / "data")
    content = json.loads(json.dumps(rng.choice((BOXES, BOXES, MASKS))))
    text, change = mutate.change_json(rng, json.dumps(content), NUMBER)
    raw = text.encode()
    broken = rng.random() < 0.1
    (folder / "results.json").write_bytes(mutate.change_bytes(rng, raw) if broken else raw)
    wrong = not broken and change is not None and change.is_no_number(NUMBER)
    words = ["evaluate", "results.json", "--data.path=data"]
    return Case(words, f"{change.path} is no number" if wrong and change else "")


SURFACES = {"results": results}
