"""From a path to a Catalogue: the format is recognised, and a val split set apart where there is none."""

from __future__ import annotations

import dataclasses
import difflib
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType

from torch.utils.data import Dataset

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.datasets import catalogue_of
from vertebra.data.formats import ReadOptions, formats
from vertebra.errors import VertebraError, one_of
from vertebra.files import expanded
from vertebra.images import UnreadableImage
from vertebra.structures import Target

NEARBY = 20
"""Folders in a folder that are examined for data when the folder itself has none."""

Source = str | Path | Dataset | Mapping[str, Dataset]
"""Where data comes from: a path, or a dataset of (image, Target), or one for each split."""


def open_data(
    path: Source, *, fields: Collection[str] | None = None, val_share: float = 0.2, seed: int = 0
) -> Catalogue:
    """Recognises the format of the data at `path` and lists its samples; no image is decoded.

    Args:
        path: a folder with a folder per class, or with such folders in `train/` and `val/`; a CSV file with
            columns `path`, `label` and maybe `split`; a folder of IDX files (as MNIST's); a COCO folder or JSON; a
            folder of Pascal VOC's XML; YOLO's data.yaml or its folder; a folder of masks; or the word `shapes`. Or a
            torch Dataset that yields (image, Target), or a mapping of such by split.
        fields: the fields of Target that are needed, such as `boxes` and `masks`; None for all.
        val_share: share that becomes the val split where there is none, in 0..1: of each class where images have
            one class, else of the images.
        seed: of that split, and of the built-in shapes.

    Raises:
        VertebraError: if no data is there, or it is damaged; the sentence says what was expected. An annotation that
            is wrong is skipped instead, and listed in `problems`.
    """
    return with_val_split(read(path, fields=fields, seed=seed), val_share, seed)


def with_val_split(catalogue: Catalogue, val_share: float, seed: int) -> Catalogue:
    """The catalogue with a val split, as for `open_data`: its own, or its test split, or else a share set apart."""
    if not 0 < val_share < 1:
        raise VertebraError(f"val_share is {val_share}; it must lie between 0 and 1.")
    if "val" not in catalogue.splits and "test" in catalogue.splits:
        catalogue.splits["val"] = catalogue.splits.pop("test")
        catalogue.notes.append("no val split: the test split is used as val")
    if "val" not in catalogue.splits:
        _split_train(catalogue, val_share, seed)
    return catalogue


def read(path: Source, *, fields: Collection[str] | None = None, seed: int = 0, missing_ok: bool = False) -> Catalogue:
    """As `open_data`, with the splits that the data itself has.

    Args:
        path: as for `open_data`.
        fields: as for `open_data`.
        seed: of the built-in shapes.
        missing_ok: whether image files may be missing whose size the annotation file gives.
    """
    for name in fields or ():
        one_of("fields", name, [entry.name for entry in dataclasses.fields(Target)])
    options = ReadOptions(None if fields is None else frozenset(fields), seed, missing_ok)
    if not isinstance(path, str | Path):
        return catalogue_of(path, options.fields)
    named = formats().get(str(path))
    path = expanded(path)
    module = named if named is not None and getattr(named, "GENERATED", False) else _recognise(path)
    last_resort = module is list(formats().values())[-1]
    if last_resort and options.fields is not None and not options.fields & module.FIELDS:
        _suggest(path, options.fields)
    catalogue: Catalogue = module.read(path, options)
    return catalogue


def _recognise(path: Path) -> ModuleType:
    for module in formats().values():
        if module.recognise(path):
            return module
    raise VertebraError(_unrecognised(path))


def _unrecognised(path: Path) -> str:
    if not path.exists():
        return f"{path} is not there.{_nearest_path(path)}"
    *others, last = [module.FILE for module in formats().values() if hasattr(module, "FILE")]
    return f"{path} is a file; data is a folder of images or {', '.join(others)} or {last}."


def _suggest(path: Path, fields: frozenset[str]) -> None:
    """Raises if a folder has none of the fields that are needed, but something near it may."""
    others = [module for module in formats().values() if fields & module.FIELDS]
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    below = [p for p in folders[:NEARBY] if any(module.recognise(p) for module in others)]
    if below:
        more = f", or of {' or '.join(p.name for p in below[1:])}" if below[1:] else ""
        raise VertebraError(f"{path} itself has no annotations: give the path of {below[0]}{more}.")
    for module in others:
        if hasattr(module, "hint") and (sentence := module.hint(path)):
            raise VertebraError(sentence)


def _nearest_path(path: Path) -> str:
    parent = next(p for p in path.parents if p.is_dir())
    missing = path.relative_to(parent).parts[0]
    close = difflib.get_close_matches(missing, [p.name for p in parent.iterdir()], n=1)
    return f" Did you mean {parent / close[0]}?" if close else f" The folder {parent} exists, but has no {missing!r}."


def _split_train(catalogue: Catalogue, share: float, seed: int) -> None:
    """Moves `share` of the images, at least one of two or more, from train to val; with labels, of every class."""
    groups: dict[int, list[Sample]] = {}
    labelled = "label" in catalogue.has
    for sample in catalogue.splits["train"]:
        groups.setdefault(_label(sample) if labelled else -1, []).append(sample)
    train: list[Sample] = []
    val: list[Sample] = []
    for label in sorted(groups):
        samples = groups[label]
        random.Random(f"{seed}/{label}" if labelled else seed).shuffle(samples)
        count = min(len(samples) - 1, max(1, round(len(samples) * share)))
        val += samples[:count]
        train += samples[count:]
    catalogue.splits = {"train": train, "val": val}
    of = "each class" if labelled else "the images"
    catalogue.notes.append(f"no val split: {share:.0%} of {of} set apart with seed {seed}")


def _label(sample: Sample) -> int:
    """The class of an image; -1 if it is an item of a Dataset that cannot be read, or has a soft label."""
    try:
        label = sample.target.label
    except UnreadableImage:
        return -1
    return -1 if label is None or label.ndim else int(label)
