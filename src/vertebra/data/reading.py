"""From a path to a Catalogue: the format is recognised, and a val split set apart where there is none."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType

from torch.utils.data import Dataset

from vertebra.data.annotations import holds_images, subfolders
from vertebra.data.catalogue import SPLIT_NAMES, SPLITS, Catalogue, Sample, check_keypoints, map_classes
from vertebra.data.datasets import catalogue_of
from vertebra.data.formats import ReadOptions, formats
from vertebra.errors import VertebraError, one_of, shown
from vertebra.files import expanded
from vertebra.images import SUFFIXES, UnreadableImage, find_images
from vertebra.structures import Target

NEARBY = 20
"""Folders in a folder that are examined for data when the folder itself has none."""
DEPTH = 3
"""Levels of folders below the one that is named in which the only data set is searched."""
UNSUPPORTED = {
    (".tfrecord", ".tfrecords", ".record"): "TensorFlow's TFRecord, which is not read: export the data anew as COCO",
    (".mat",): "MATLAB's, which is not read: write it as COCO or CSV, for example with scipy.io.loadmat",
    (
        ".mdb",
        ".lmdb",
        ".npz",
        ".npy",
        ".h5",
        ".hdf5",
    ): "a container of images, which is not read: write them into files, or use it through a torch Dataset",
    (".pkl", ".pickle"): "a pickle, which is never read, because it can run code: use the data through a torch Dataset",
    (".zip", ".tar.gz", ".tgz", ".7z", ".rar"): "an archive: unpack it and give the path of the folder",
    (".tar",): "an archive, but no shard of images with a .cls, .json or .txt each: unpack it and give the path of the "
    "folder",
    (".xlsx", ".xls", ".ods"): "a spreadsheet, which is not read: save it as CSV with the columns path and label",
}
"""What files are that are not read, by the ends of their names."""

Source = str | Path | Dataset | Mapping[str, Dataset]
"""Where data comes from: a path, or a dataset of (image, Target), or one for each split."""


def open_data(
    path: Source, *, fields: Collection[str] | None = None, val_share: float = 0.2, seed: int = 0
) -> Catalogue:
    """Recognises the format of the data at `path` and lists its samples; no image is decoded.

    Args:
        path: a folder with a folder per class, or with such folders in `train/` and `val/`; a CSV file with
            columns `path`, `label` and maybe `split`; a folder of IDX files (as MNIST's); a COCO folder or JSON; a
            folder of Pascal VOC's XML; YOLO's data.yaml or its folder; a folder of masks; an export of LabelMe, CVAT,
            Label Studio, VIA, CreateML, Datumaro, Hugging Face or Roboflow; a project of DeepLabCut; lists of facial
            landmarks, tags or captions; tar shards or a pattern of them; Arrow or Parquet files; or the word `shapes`.
            A folder whose only data lies further down stands for that. Or a torch Dataset that yields (image, Target),
            or a mapping of such by split.
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
    if named is not None and getattr(named, "GENERATED", False):
        return _read(named, path, options)
    if not path.is_dir():
        module = _recognise(path, options.fields)  # which may stand for several files
        if module is None and not path.exists():
            raise VertebraError(f"{path} is not there.{_nearest_path(path)}")
        if module is None:
            raise VertebraError(f"{path} is a file of no known format.{_guess([path.name])}{_known()}")
        return _read(module, path, options)
    return _read_folder(path, options)


def read_images(path: str | Path) -> Catalogue:
    """A dataset with its boxes and masks if it has any, or a folder of images alone, whose split is `val`.

    Arguments and errors as for `read`.
    """
    folder, fields = expanded(path), frozenset({"boxes", "masks"})
    if not folder.is_dir() or _recognise(folder, fields):
        return read(path, fields=fields)
    images = find_images(folder)
    files = sum(file.is_file() and not file.name.startswith(".") for file in folder.rglob("*"))
    if not images or len(images) < files:
        return read(path, fields=fields)
    samples = [Sample(image, Target(path=str(image))) for image in images]
    notes = [f"{path} is a folder of {len(images)} images without ground truth"]
    return Catalogue(str(path), "images", (), {"val": samples}, notes, has=frozenset())


def _read(module: ModuleType, path: Path, options: ReadOptions) -> Catalogue:
    catalogue: Catalogue = module.read(path, options)
    return catalogue


def _recognise(path: Path, fields: Collection[str] | None = None) -> ModuleType | None:
    """The first format that recognises a path, except the last one, which takes any folder; if it can fill none of
    `fields`, the first of the others that can."""
    *others, _ = formats().values()
    recognising = (module for module in others if module.recognise(path))
    first = next(recognising, None)
    if first is None or fields is None or set(fields) & first.FIELDS:
        return first
    return next((module for module in recognising if set(fields) & module.FIELDS), first)


def _read_folder(path: Path, options: ReadOptions, depth: int = DEPTH) -> Catalogue:
    """The data in a folder, or in the only one of its folders that has any, at most `depth` levels down."""
    if module := _recognise(path, options.fields):
        return _read(module, path, options)
    folders = subfolders(path)
    recognised = [folder for folder in folders[:NEARBY] if _recognise(folder, options.fields)]
    splits = {SPLIT_NAMES[name]: folder for folder in recognised if (name := folder.name.lower()) in SPLIT_NAMES}
    if splits and len(splits) == len(recognised) == sum(folder.name.lower() in SPLIT_NAMES for folder in folders):
        return _joined(path, {split: _read_folder(folder, options, 0) for split, folder in splits.items()})
    by_class = list(formats().values())[-1]
    suits = options.fields is None or bool(options.fields & by_class.FIELDS)
    if depth and (inner := _inner(path, folders, recognised, suits)):
        catalogue = _read_folder(inner, options, depth - 1)
        catalogue.notes.insert(0, f"read from {inner}, the only data set in {path}")
        return dataclasses.replace(catalogue, path=str(path))
    if not suits:
        _hint(path, options.fields)
    if not any(map(holds_images, folders)):
        raise VertebraError(_unknown(path, options.fields))
    return _read(by_class, path, options)


def _inner(path: Path, folders: list[Path], recognised: list[Path], suits: bool) -> Path | None:
    """The one of `folders`, those in `path`, that holds the data; None if they are classes or splits, or have none.

    Args:
        recognised: those that a format recognises.
        suits: whether folders of classes would do.

    Raises:
        VertebraError: if several hold data.
    """
    if suits and any(folder.name.lower() in SPLIT_NAMES for folder in folders):
        return None
    if len(folders) == 1 and not _has_images(path):
        is_class = not recognised and (_has_images(folders[0]) or not holds_images(folders[0]))
        return None if is_class else folders[0]
    if suits and (len(recognised) < len(folders) or any(map(_has_images, folders))):
        return None
    if len(recognised) > 1:
        more = " or ".join(folder.name for folder in recognised[1:])
        raise VertebraError(
            f"{path} holds {len(recognised)} data sets: give the path of {recognised[0]}, or of {more}."
        )
    return recognised[0] if recognised else None


def _has_images(folder: Path) -> bool:
    """Whether images lie in a folder itself."""
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") for entry in entries)


def _joined(path: Path, catalogues: dict[str, Catalogue]) -> Catalogue:
    """The data sets in the folders of splits as one, whose classes are those of all.

    Raises:
        VertebraError: if they have different keypoints.
    """
    parts = [catalogues[split] for split in SPLITS if split in catalogues]
    names = list(dict.fromkeys(name for part in parts for name in part.classes))
    alphabetical = all(list(part.classes) == sorted(part.classes) for part in parts)
    classes = tuple(sorted(names) if alphabetical else names)
    for part in parts[1:]:
        if part.keypoints and parts[0].keypoints:
            check_keypoints(part, parts[0].keypoints, parts[0].path)
    return Catalogue(
        str(path),
        parts[0].format,
        classes,
        {
            split: map_classes(itertools.chain(*part.splits.values()), part.classes, classes)
            for split, part in catalogues.items()
        },
        [note for part in parts for note in part.notes],
        [problem for part in parts for problem in part.problems],
        frozenset.intersection(*(part.has for part in parts)),
        parts[0].category_ids if all(part.classes == classes for part in parts) else (),
        parts[0].keypoints,
        items=parts[0].items,
    )


def _hint(path: Path, fields: frozenset[str] | None) -> None:
    """Raises if a format that has the fields that are needed knows what is wrong with a folder."""
    for module in formats().values():
        suits = fields is None or fields & module.FIELDS
        if suits and hasattr(module, "hint") and (sentence := module.hint(path)):
            raise VertebraError(sentence)


def _unknown(path: Path, fields: frozenset[str] | None) -> str:
    """What lies in a folder without known data, and the file of it that can be read alone."""
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]
    images = sum(name.lower().endswith(SUFFIXES) for name in names)
    counts = Counter(suffix for name in names if (suffix := Path(name).suffix.lower()) not in SUFFIXES)
    kinds = [("loose image", images), *((f"{shown(s)[1:-1] or 'other'} file", n) for s, n in counts.most_common(3))]
    holds = " and ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in kinds if count) or "no images"
    classify = " To classify images, put those of each class into a folder named after it." if images else ""
    alone = ""
    of_suffix = {Path(name).suffix.lower(): name for name in sorted(names, reverse=True)}  # few files are opened
    for suffix, name in of_suffix.items():
        module = None if suffix in SUFFIXES else _recognise(path / name, fields)
        if module is not None and (fields is None or fields & module.FIELDS):
            alone = f" {path / name} can be read as {module.TITLE}: give the path of this file."
            break
    advice = f"{alone}{classify}{_guess(names)}{_known()}"
    return f"{path} is of no known format: it has no class folders but {holds}.{advice}"


def _guess(names: Iterable[str]) -> str:
    """What files may be by their suffixes, and what to do about it."""
    for name in names:
        for suffixes, advice in UNSUPPORTED.items():
            if name.lower().endswith(suffixes):
                return f" {shown(name)[1:-1]} is {advice}."
    return ""


def _known() -> str:
    *others, last = dict.fromkeys(module.TITLE for module in formats().values() if not hasattr(module, "GENERATED"))
    return f" Known formats are {', '.join(others)} and {last}."


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
    of = "each class" if labelled else f"the {catalogue.items}"
    catalogue.notes.append(f"no val split: {share:.0%} of {of} set apart with seed {seed}")


def _label(sample: Sample) -> int:
    """The class of an image; -1 if it is an item of a Dataset that cannot be read, or has a soft label."""
    try:
        label = sample.target.label
    except UnreadableImage:
        return -1
    return -1 if label is None or label.ndim else int(label)


def tagged(catalogue: Catalogue) -> Catalogue:
    """The dataset with the classes of each image's objects, or else its one class, as tags. Crowd regions count: their
    objects are in the image."""

    def tags_of(sample: Sample) -> Sample:
        target = sample.target
        labels = target.label if target.labels is None else target.labels
        assert labels is not None, "a dataset of objects or of classes of whole images"
        return Sample(sample.image, Target(tags=labels.reshape(-1).unique(), id=target.id, path=target.path))

    source = "the class" if "label" in catalogue.has else "the classes of the objects"
    return dataclasses.replace(
        catalogue,
        splits={split: [tags_of(sample) for sample in samples] for split, samples in catalogue.splits.items()},
        has=frozenset({"tags"}),
        notes=[*catalogue.notes, f"tags of an image are {source} in it"],
        keypoints=None,
    )


def painted(path: Source, *, seed: int = 0, missing_ok: bool = False) -> Catalogue:
    """The dataset with label maps painted from instance masks, as which `background` is the first class.

    Arguments and errors as for `read`.
    """
    catalogue = read(path, fields={"masks"}, seed=seed, missing_ok=missing_ok)
    splits = {
        split: [dataclasses.replace(sample, painted=True) for sample in samples]
        for split, samples in catalogue.splits.items()
    }
    return dataclasses.replace(
        catalogue,
        classes=("background", *catalogue.classes),
        splits=splits,
        has=frozenset({"semantic"}),
        notes=[*catalogue.notes, "label maps are painted from the masks of the objects, smaller ones on top"],
        keypoints=None,
        painted=True,
    )
