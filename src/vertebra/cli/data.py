"""`vertebra data PATH`: what is in a data set and what is wrong with it."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track
from rich.table import Table

from vertebra import pictures
from vertebra.cli.parsing import parse, parser
from vertebra.data import Catalogue, open_data, shapes
from vertebra.errors import VertebraError


@dataclass
class Options:
    save: str | None = None
    """With `shapes`: write the built-in pictures into this folder."""
    format: Literal["folder", "coco"] = "folder"
    """How --save writes them: a folder per class, or COCO JSON with boxes, masks and keypoints."""
    val_share: float = 0.2
    """Share of each class set apart for validation where there is no val split, in 0..1."""
    seed: int = 0
    """Of that split, and of the built-in shapes."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("data", "Shows what is in a data set and what is wrong with it; decodes every picture.")
    arguments.add_argument("path", help="Folder, CSV list, IDX folder or `shapes`, as `vertebra train` takes it.")
    arguments.add_class_arguments(Options)
    chosen = parse(arguments, argv)
    if chosen.save:
        if chosen.path != "shapes":
            raise VertebraError("--save writes the built-in set: type `vertebra data shapes --save=FOLDER`.")
        write = shapes.write_coco if chosen.format == "coco" else shapes.write_folder
        write(Path(chosen.save), chosen.seed)
        print(f"the built-in shapes are in {chosen.save}")
        return
    catalogue = open_data(chosen.path, val_share=chosen.val_share, seed=chosen.seed)
    _print(catalogue, *_inspect(catalogue))


def _inspect(catalogue: Catalogue) -> tuple[list[tuple[int, int]], list[str]]:
    """(height, width) of every readable picture, and one sentence per problem."""
    sizes: list[tuple[int, int]] = []
    problems: list[str] = []
    seen: dict[bytes, tuple[str, str, int]] = {}
    everything = [(split, sample) for split, samples in catalogue.splits.items() for sample in samples]
    for split, sample in track(everything, "reading", transient=True):
        try:
            picture = pictures.read(sample.picture)
        except pictures.BrokenPicture as error:
            problems.append(str(error))
            continue
        sizes.append((picture.shape[1], picture.shape[2]))
        content = str(tuple(picture.shape)).encode() + picture.numpy().tobytes()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        name = sample.target.path or f"a picture of {split}"
        if digest in seen:
            other, other_split, label = seen[digest]
            what = "the same pixels"
            if label != sample.label:
                what += f", but classes {catalogue.classes[sample.label]!r} and {catalogue.classes[label]!r}"
            if other_split != split:
                what += f", in both {split} and {other_split}"
            problems.append(f"{name} and {other}: {what}.")
        seen.setdefault(digest, (name, split, sample.label))
    return sizes, problems


def _print(catalogue: Catalogue, sizes: Sequence[tuple[int, int]], problems: Sequence[str]) -> None:
    table = Table("class", title=f"{catalogue.path} ({catalogue.kind})")
    for split in catalogue.splits:
        table.add_column(split, justify="right")
    counts = {split: catalogue.counts(split) for split in catalogue.splits}
    for i, name in enumerate(catalogue.classes):
        table.add_row(name, *(str(counts[split][i]) for split in catalogue.splits))
    table.add_section()
    table.add_row("all", *(str(sum(counts[split])) for split in catalogue.splits))
    Console().print(table)
    for note in catalogue.notes:
        print(f"note: {note}")
    if sizes:
        for word, values in (("height", [h for h, _ in sizes]), ("width", [w for _, w in sizes])):
            print(f"{word}: {min(values)} to {max(values)} pixels, median {statistics.median(values):g}")
    train = counts.get("train", [])
    if train and max(train) >= 3 * max(1, min(train)):
        rare = catalogue.classes[train.index(min(train))]
        print(f"note: classes are uneven ({min(train)} to {max(train)} pictures, fewest {rare!r}): consider --balance")
    for problem in problems:
        print(f"problem: {problem}")
    print(f"{len(sizes)} pictures read, {len(problems)} problems")
