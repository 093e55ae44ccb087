"""From a path to a Catalogue: which format lies there, and how it is divided into splits."""

from __future__ import annotations

import difflib
import random
from pathlib import Path
from typing import Any

from vertebra.data import classified, coco, instance_masks, shapes, voc, yolo
from vertebra.data.catalogue import WANTS, Catalogue, Sample
from vertebra.errors import VertebraError, one_of
from vertebra.files import expanded

TASKS = {"label": "classification", "boxes": "detection", "masks": "instance", "keypoints": "keypoints"}
"""Which task learns from each field of Target."""
WORDS = {"label": "classes of whole pictures"}
OBJECTS: tuple[Any, ...] = (coco, yolo, voc, instance_masks)
"""Readers of objects; the first that recognises a folder reads it."""
NEAR = 20
"""So many folders of a folder are looked into for what may have been meant."""


def open_data(path: str | Path, *, want: str | None = "label", val_share: float = 0.2, seed: int = 0) -> Catalogue:
    """Finds out what lies at `path` and lists it; no picture is decoded.

    Args:
        path: a folder with a folder per class, or with such folders in `train/` and `val/`; a CSV file with
            columns `path`, `label` and maybe `split`; a folder of IDX files (as MNIST's); a COCO folder or JSON; a
            folder of Pascal VOC's XML; YOLO's data.yaml or its folder; a folder of masks; or the word `shapes`.
        want: the field of Target that is to be learned or measured: `label`, `boxes`, `masks` or `keypoints`.
            Samples carry no masks or keypoints that nobody wants. None: everything that is there.
        val_share: share that becomes the val split where there is none, in 0..1: of each class where a picture has
            one class, else of the pictures.
        seed: of that split, and of the built-in shapes.

    Raises:
        VertebraError: if nothing usable is there, or the data does not have what is wanted; the sentence says what
            was expected. One annotation that is wrong is no reason: it is left out and listed in `broken`.
    """
    return divided(read(path, want=want, seed=seed), val_share, seed)


def divided(catalogue: Catalogue, val_share: float, seed: int) -> Catalogue:
    """With a val split, as for `open_data`: the data's own, or its test split, or else a share set apart."""
    if not 0 < val_share < 1:
        raise VertebraError(f"val_share is {val_share}; it must lie between 0 and 1.")
    if "val" not in catalogue.splits and "test" in catalogue.splits:
        catalogue.splits["val"] = catalogue.splits.pop("test")
        catalogue.notes.append("no val split: the test split is used as val")
    if "val" not in catalogue.splits:
        _divide(catalogue, val_share, seed)
    return catalogue


def read(path: str | Path, *, want: str | None = "label", seed: int = 0, missing_ok: bool = False) -> Catalogue:
    """As `open_data`, with the splits that the data itself has; `missing_ok` as for COCO's reader."""
    if want is not None:
        one_of("want", want, WANTS)
    if str(path) == "shapes":
        return shapes.catalogue(seed) if want in ("label", None) else shapes.objects(want, seed)
    path = expanded(path)
    if not path.exists():
        raise VertebraError(f"{path} is not there.{_nearest_path(path)}")
    catalogue = _recognised(path, want, missing_ok)
    if want is not None and want not in catalogue.has:
        _lacking(catalogue, want)
    if "label" in catalogue.has and len(catalogue.classes) < 2:
        raise VertebraError(
            f"{path} has one class only ({catalogue.classes[0]!r}); a classifier needs two or more to tell apart."
        )
    return catalogue


def _recognised(path: Path, want: str | None, missing_ok: bool) -> Catalogue:
    if path.is_file():
        kind = path.suffix.lower()
        if kind == ".csv":
            return classified.read_csv(path)
        if kind == ".json":
            return coco.read(path, want, missing_ok=missing_ok)
        if kind in (".yaml", ".yml"):
            return yolo.read(path, want)
        raise VertebraError(
            f"{path} is a file; data is a folder of pictures or a .csv list, COCO's .json or YOLO's data.yaml."
        )
    if list(path.glob("*-idx3-ubyte*")):
        return classified.read_idx(path)
    if coco.recognise(path):
        return coco.read(path, want, missing_ok=missing_ok)
    for reader in OBJECTS[1:]:
        if reader.recognise(path):
            return reader.read(path, want)
    if file := coco.alone(path):
        return coco.read(file, want, missing_ok=missing_ok)
    if want not in ("label", None):
        _explain(path)
    return classified.read_folder(path)


def _explain(path: Path) -> None:
    """Raises if objects are looked for in a folder that tells of none, but something near it may."""
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    below = [p for p in folders[:NEAR] if coco.alone(p) or any(reader.recognise(p) for reader in OBJECTS)]
    if below:
        others = f", or of {' or '.join(p.name for p in below[1:])}" if below[1:] else ""
        raise VertebraError(f"{path} itself has no annotations: give the path of {below[0]}{others}.")
    if loose := sorted(path.glob("*.json")):
        raise VertebraError(
            f"{path} has no annotations/ with COCO's JSON; if {loose[0].name} is such, give its own path."
        )


def _lacking(catalogue: Catalogue, want: str) -> None:
    has = [word for word in WANTS if word in catalogue.has]
    raise VertebraError(
        f"{catalogue.path} has {' and '.join(WORDS.get(word, word) for word in has)} but no {WORDS.get(want, want)}: "
        f"train {' or '.join(TASKS[word] for word in has)} on it."
    )


def _nearest_path(path: Path) -> str:
    parent = next(p for p in path.parents if p.is_dir())
    missing = path.relative_to(parent).parts[0]
    close = difflib.get_close_matches(missing, [p.name for p in parent.iterdir()], n=1)
    return f" Did you mean {parent / close[0]}?" if close else f" The folder {parent} is, but holds no {missing!r}."


def _divide(catalogue: Catalogue, share: float, seed: int) -> None:
    """Moves `share` of the pictures, at least one of two or more, from train to val; with labels, of every class."""
    groups: dict[int, list[Sample]] = {}
    labelled = "label" in catalogue.has
    for sample in catalogue.splits["train"]:
        groups.setdefault(sample.label if labelled else -1, []).append(sample)
    train: list[Sample] = []
    val: list[Sample] = []
    for label in sorted(groups):
        samples = groups[label]
        random.Random(f"{seed}/{label}" if labelled else seed).shuffle(samples)
        count = min(len(samples) - 1, max(1, round(len(samples) * share)))
        val += samples[:count]
        train += samples[count:]
    catalogue.splits = {"train": train, "val": val}
    of = "each class" if labelled else "the pictures"
    catalogue.notes.append(f"no val split: {share:.0%} of {of} set apart with seed {seed}")
