"""`vertebra data PATH`: the contents of a dataset and its problems; `vertebra data convert`: another format."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from vertebra import kinds
from vertebra.cli.parsing import REQUIRED, parse, parser
from vertebra.cli.tables import console
from vertebra.data import Catalogue, Sample, open_data
from vertebra.data.convert import convert
from vertebra.data.formats import shapes, writable
from vertebra.errors import VertebraError, escaped
from vertebra.images import UnreadableImage, read_image
from vertebra.kinds import Kind
from vertebra.progress import track
from vertebra.structures import Target


@dataclass
class Options:
    save: str | None = None
    """With `shapes`: write the built-in images into this folder."""
    format: Literal["folder", "coco"] = "folder"
    """Format that --save writes: a folder per class, or COCO JSON with boxes, masks and keypoints."""
    val_share: float = 0.2
    """Share set apart for validation where the data has no val split, of each class (of all images, if they show
    objects), in 0..1."""
    seed: int = 0
    """Seed of that split, and of the built-in shapes."""


@dataclass
class ConvertOptions:
    save: str
    """Folder to write to, empty or not there."""
    seed: int = 0
    """Seed of the built-in shapes."""


@dataclass
class Inspection:
    """The results of reading all images."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    """(height, width) of each readable image."""
    problems: list[str] = field(default_factory=list)
    """One sentence each."""
    targets: dict[str, list[Target]] = field(default_factory=dict)
    """Complete targets of the readable images by split."""


def run(argv: Sequence[str]) -> None:
    if argv and argv[0] == "convert":
        _convert(argv[1:])
        return
    arguments = parser(
        "data",
        "Shows the contents of a dataset and its problems; decodes every image. "
        "`vertebra data convert --help` explains how to write it in another format.",
    )
    arguments.add_argument("path", help="Folder, file or `shapes`, as `vertebra train` takes it.")
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)
    if options.save:
        if options.path != "shapes":
            raise VertebraError("--save writes the built-in dataset: type `vertebra data shapes --save=FOLDER`.")
        write = shapes.write_coco if options.format == "coco" else shapes.write_folder
        write(Path(options.save), options.seed)
        print(f"the built-in shapes are in {options.save}")
        return
    catalogue = open_data(options.path, val_share=options.val_share, seed=options.seed)
    kind = kinds.of(catalogue)
    _print(catalogue, kind, _inspect(catalogue, kind))


def _convert(argv: Sequence[str]) -> None:
    arguments = parser("data convert", "Writes a dataset of objects in another format; images are copied.")
    arguments.add_argument("path", help="Folder, file or `shapes`, as `vertebra train` takes it.")
    arguments.add_option("to", "Format to write.", default=REQUIRED, choices=list(writable()))
    arguments.add_class_arguments(ConvertOptions)
    options = parse(arguments, argv)
    catalogue, lost = convert(options.path, options.to, options.save, options.seed)
    for note in catalogue.notes:
        print(escaped(f"note: {note}"))
    for problem in catalogue.problems:
        print(escaped(f"problem: {problem}"))
    if lost:
        print(f"note: {options.to} cannot hold {', '.join(lost)}; they are dropped")
    kind = kinds.of(catalogue)
    counts = ", ".join(
        f"{split} {len(samples)} images and {sum(catalogue.counts(split, kind.labels))} objects"
        for split, samples in catalogue.splits.items()
    )
    print(f"{options.save} holds {catalogue.path} as {options.to}: {counts}")


def _inspect(catalogue: Catalogue, kind: Kind) -> Inspection:
    """Reads every image and its complete target."""
    result = Inspection(problems=list(catalogue.problems))
    first: dict[bytes, tuple[str, str, Sample]] = {}
    samples = [(split, sample) for split, members in catalogue.splits.items() for sample in members]
    for split, sample in track(samples, "reading"):
        try:
            image = read_image(sample.image)
        except UnreadableImage as error:
            result.problems.append(str(error))
            continue
        size = (image.shape[1], image.shape[2])
        result.sizes.append(size)
        target, problems = kind.inspect_sample(sample, size)
        result.targets.setdefault(split, []).append(target)
        result.problems += problems
        name = sample.target.path or f"an image of {split}"
        pixels = hashlib.blake2b(f"{tuple(image.shape)}".encode(), digest_size=16)
        pixels.update(np.ascontiguousarray(image).data)  # not copied, unless grey planes share their memory
        digest = pixels.digest()
        if digest in first:
            other_name, other_split, other = first[digest]
            parts = ["the same pixels"]
            if difference := kind.difference(sample.target, other.target, catalogue.classes):
                parts.append(f"but {difference}")
            if other_split != split:
                parts.append(f"in both {split} and {other_split}")
            result.problems.append(f"{name} and {other_name}: {', '.join(parts)}.")
        first.setdefault(digest, (name, split, sample))
    return result


def _print(catalogue: Catalogue, kind: Kind, inspection: Inspection) -> None:
    for table in kind.tables(catalogue, inspection.targets):
        console().print(table)
    for note in catalogue.notes:
        print(escaped(f"note: {note}"))
    for side, values in zip(("height", "width"), zip(*inspection.sizes, strict=True), strict=False):
        low, high, median = min(values), max(values), statistics.median(values)
        print(f"{side}: {low} to {high} pixels, median {round(median, 1):g}")
    for note in kind.notes(catalogue):
        print(escaped(f"note: {note}"))
    for problem in inspection.problems:
        print(escaped(f"problem: {problem}"))
    print(f"{len(inspection.sizes)} images read, {len(inspection.problems)} problems")
