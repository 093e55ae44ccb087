"""A classifier's answers for images, stored in a folder: probabilities that a student learns without its teacher.

`labels.csv` lists the images, with paths relative to the folder, and their top class or their tags; it is a dataset
too. `soft_labels.safetensors` holds `probabilities` [N, num_classes] float32 in the order of its lines.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from vertebra import weights
from vertebra.errors import VertebraError, escaped, shown
from vertebra.files import parse_json, read_text, replacing
from vertebra.structures import check_classes

LIST, TENSOR = "labels.csv", "soft_labels.safetensors"


@dataclass
class SoftLabels:
    """Probabilities of the classes of images."""

    classes: tuple[str, ...]
    paths: list[Path]
    """Of the images, absolute."""
    probabilities: Tensor
    """[N, num_classes] float32 in 0..1."""
    independent: bool
    """Whether each class has a probability of its own, as tags have; else those of an image sum to 1."""


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder of stored answers."""
    return (Path(path) / TENSOR).is_file()


def write(
    folder: Path,
    classes: Sequence[str],
    paths: Sequence[str],
    probabilities: Tensor,
    columns: Sequence[Mapping[str, object]],
    *,
    independent: bool,
) -> None:
    """Writes the two files; `columns` has what the list says of each image, at least one, by the same names, further
    arguments are as the fields of SoftLabels."""
    with replacing(folder / LIST) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["path", *columns[0]])
        table.writeheader()
        for path, values in zip(paths, columns, strict=True):
            table.writerow({"path": os.path.relpath(path, folder), **values})
    with replacing(folder / TENSOR) as temporary:
        about = {"classes": json.dumps(list(classes)), "independent": json.dumps(independent)}
        save_file({"probabilities": probabilities.contiguous()}, temporary, about)


def read(folder: Path) -> SoftLabels:
    """The answers in a folder.

    Raises:
        VertebraError: if a file is missing or damaged, or they do not belong together.
    """
    path = folder / TENSOR
    state, metadata, _ = weights.read(path)
    classes = parse_json(metadata.get("classes", "null"), str(path))
    if not isinstance(classes, list):
        raise VertebraError(f"{path} has no list of classes; `vertebra label` writes one.")
    check_classes(classes)
    probabilities = state.get("probabilities")
    if probabilities is None or probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        form = "none" if probabilities is None else list(probabilities.shape)
        raise VertebraError(f"{path}: probabilities are {form}; they must be [images, {len(classes)}].")
    probabilities = probabilities.float()
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise VertebraError(f"{path}: probabilities must lie between 0 and 1.")
    independent = parse_json(metadata.get("independent", "false"), str(path)) is True
    if not independent and bool(((probabilities.sum(1) - 1).abs() > 1e-2).any()):
        raise VertebraError(f"{path}: probabilities of an image's classes must sum to 1.")
    rows = csv.reader(io.StringIO(read_text(folder / LIST)))
    header = next(rows, [])
    if header[:1] != ["path"]:
        raise VertebraError(
            f"{folder / LIST}, line 1: the first column is {shown(escaped(''.join(header[:1])))}, not path."
        )
    names = [row[0] for row in rows if row]
    if len(names) != len(probabilities):
        raise VertebraError(f"{folder / LIST} lists {len(names)} images, and {path} has {len(probabilities)} rows.")
    paths = [Path(os.path.abspath(folder / name)) for name in names]
    return SoftLabels(tuple(classes), paths, probabilities, independent)
