"""`vertebra data PATH`: the contents of a dataset and its problems; `vertebra data convert`: another format."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vertebra import kinds
from vertebra.cli.parsing import REQUIRED, parse, parser
from vertebra.cli.tables import console
from vertebra.data import Catalogue, Sample, open_data
from vertebra.data.convert import convert
from vertebra.data.formats import shapes, writable
from vertebra.errors import VertebraError, escaped
from vertebra.images import UnreadableImage
from vertebra.kinds import Kind
from vertebra.progress import track
from vertebra.structures import Target
from vertebra.viz import sheet

MANY, FEW = 20, 5
"""Problems of one kind up to which all are printed, and how many are printed of more."""


@dataclass
class Options:
    save: str | None = None
    """Contact sheet to write, a .png, .jpg or .webp file: up to 24 images of all splits with their annotations. With
    `shapes`, another name is a folder for the built-in images."""
    format: Literal["folder", "coco"] = "folder"
    """Format of that folder: a folder per class, or COCO JSON with boxes, masks and keypoints."""
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

    read: int = 0
    """Samples that could be read."""
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
    if options.save and options.path == "shapes" and not sheet.is_sheet(options.save):
        write = shapes.write_coco if options.format == "coco" else shapes.write_folder
        write(Path(options.save), options.seed)
        print(f"the built-in shapes are in {options.save}")
        return
    if options.save:
        sheet.check(options.save)
    catalogue = open_data(options.path, val_share=options.val_share, seed=options.seed)
    kind = kinds.of(catalogue)
    if options.save and not kind.reads_images:
        raise VertebraError(f"{options.path} holds {kind.items}, of which there is no contact sheet: leave --save out.")
    _print(catalogue, kind, _inspect(catalogue, kind))
    if options.save:
        print(f"{sheet.save(options.save, catalogue, kind)} images with their annotations in {options.save}")


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
    """Reads every sample and its complete target."""
    result = Inspection(problems=list(catalogue.problems))
    first: dict[bytes, tuple[str, str, Sample]] = {}
    samples = [(split, sample) for split, members in catalogue.splits.items() for sample in members]
    for split, sample in track(samples, "reading"):
        try:
            content, size = kind.content(sample)
        except UnreadableImage as error:
            result.problems.append(str(error))
            continue
        result.read += 1
        if size is not None:
            result.sizes.append(size)
        target, problems = kind.inspect_sample(sample, size)
        result.targets.setdefault(split, []).append(target)
        result.problems += problems
        name = sample.target.path or f"an image of {split}"
        hashed = hashlib.blake2b(f"{size}".encode(), digest_size=16)
        hashed.update(memoryview(content))
        digest = hashed.digest()
        if digest in first:
            other_name, other_split, other = first[digest]
            parts = [f"the same {'source' if size is None else 'pixels'}"]
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
    for line in _condensed(inspection.problems, catalogue.path):
        print(escaped(line))
    print(f"{inspection.read} {kind.items} read, {len(inspection.problems)} problems")


def _condensed(problems: Sequence[str], path: str) -> Iterator[str]:
    """A line per problem; of more than MANY that differ in files and numbers alone, the first FEW and a count."""
    varying = re.compile(rf"{re.escape(path)}[^:]*?\.\w{{2,4}}\b|\S*[/\\]\S*|\S+\.\w+|\d+")
    groups: dict[str, list[str]] = {}
    for problem in problems:
        groups.setdefault(varying.sub("", problem), []).append(problem)
    for problem in problems:
        alike = groups[varying.sub("", problem)]
        if len(alike) <= MANY:
            yield f"problem: {problem}"
        elif problem is alike[0]:
            yield from (f"problem: {first}" for first in alike[:FEW])
            yield f"... and {len(alike) - FEW} more like it"
