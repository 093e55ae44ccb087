"""`vertebra data PATH`: what is in a data set and what is wrong with it; `vertebra data convert`: another format."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Column, Table

from vertebra import pictures
from vertebra.cli.parsing import parse, parser
from vertebra.data import Catalogue, Sample, open_data, segments, shapes
from vertebra.data.convert import convert
from vertebra.errors import VertebraError
from vertebra.structures import Target

SMALL, LARGE = 32**2, 96**2
"""Square pixels between which COCO calls objects medium."""


@dataclass
class Options:
    save: str | None = None
    """With `shapes`: write the built-in pictures into this folder."""
    format: Literal["folder", "coco"] = "folder"
    """How --save writes them: a folder per class, or COCO JSON with boxes, masks and keypoints."""
    val_share: float = 0.2
    """Share of each class (or of all pictures, if they show objects) set apart where there is no val split, in 0..1."""
    seed: int = 0
    """Of that split, and of the built-in shapes."""


@dataclass
class ConvertOptions:
    to: Literal["coco", "voc", "yolo", "masks"]
    """COCO JSON, Pascal VOC XML, YOLO text files, or a folder of masks for each class."""
    save: str
    """Where to: a folder that is empty or not there."""
    seed: int = 0
    """Of the built-in shapes."""


@dataclass
class Seen:
    """What was found in the pictures."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    """(height, width) of every readable one."""
    problems: list[str] = field(default_factory=list)
    """One sentence each."""
    targets: dict[str, list[Target]] = field(default_factory=dict)
    """Of every readable picture by split, with boxes, where the data has such."""


def run(argv: Sequence[str]) -> None:
    if argv and argv[0] == "convert":
        _convert(argv[1:])
        return
    arguments = parser(
        "data",
        "Shows what is in a data set and what is wrong with it; decodes every picture. "
        "`vertebra data convert --help` tells how to write it in another format.",
    )
    arguments.add_argument("path", help="Folder, file or `shapes`, as `vertebra train` takes it.")
    arguments.add_class_arguments(Options)
    chosen = parse(arguments, argv)
    if chosen.save:
        if chosen.path != "shapes":
            raise VertebraError("--save writes the built-in set: type `vertebra data shapes --save=FOLDER`.")
        write = shapes.write_coco if chosen.format == "coco" else shapes.write_folder
        write(Path(chosen.save), chosen.seed)
        print(f"the built-in shapes are in {chosen.save}")
        return
    catalogue = open_data(chosen.path, want=None, val_share=chosen.val_share, seed=chosen.seed)
    _print(catalogue, _inspect(catalogue))


def _convert(argv: Sequence[str]) -> None:
    arguments = parser("data convert", "Writes a data set of objects in another format; pictures are copied.")
    arguments.add_argument("path", help="Folder, file or `shapes`, as `vertebra train` takes it.")
    arguments.add_class_arguments(ConvertOptions)
    chosen = parse(arguments, argv)
    catalogue, lost = convert(chosen.path, chosen.to, chosen.save, chosen.seed)
    for note in catalogue.notes:
        print(f"note: {note}")
    for problem in catalogue.broken:
        print(f"problem: {problem}")
    if lost:
        print(f"note: {chosen.to} cannot hold {', '.join(lost)}; they are left out")
    counts = ", ".join(
        f"{split} {len(samples)} pictures and {sum(catalogue.counts(split))} objects"
        for split, samples in catalogue.splits.items()
    )
    print(f"{chosen.save} holds {catalogue.path} as {chosen.to}: {counts}")


def _inspect(catalogue: Catalogue) -> Seen:
    """Reads every picture, decodes every mask."""
    seen = Seen(problems=list(catalogue.broken))
    first: dict[bytes, tuple[str, str, Sample]] = {}
    everything = [(split, sample) for split, samples in catalogue.splits.items() for sample in samples]
    for split, sample in track(everything, "reading", transient=True):
        try:
            picture = pictures.read(sample.picture)
        except pictures.BrokenPicture as error:
            seen.problems.append(str(error))
            continue
        size = (picture.shape[1], picture.shape[2])
        seen.sizes.append(size)
        name = sample.target.path or f"a picture of {split}"
        if "boxes" in catalogue.has:
            target, problems = _check(sample, size)
            seen.targets.setdefault(split, []).append(target)
            seen.problems += problems
        content = str(tuple(picture.shape)).encode() + picture.numpy().tobytes()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if digest in first:
            other, other_split, twin = first[digest]
            what = "the same pixels"
            if "boxes" in catalogue.has:
                if not _alike(sample.target, twin.target):
                    what += ", but other objects"
            elif twin.label != sample.label:
                what += f", but classes {catalogue.classes[sample.label]!r} and {catalogue.classes[twin.label]!r}"
            if other_split != split:
                what += f", in both {split} and {other_split}"
            seen.problems.append(f"{name} and {other}: {what}.")
        first.setdefault(digest, (name, split, sample))
    return seen


def _check(sample: Sample, size: tuple[int, int]) -> tuple[Target, list[str]]:
    """The target with its boxes, and one sentence for each object that is wrong on a picture of `size`."""
    problems: list[str] = []
    boxes: list[tuple[int, int, int, int]] = []
    target = sample.target
    if target.size not in (None, size):
        try:
            Sample(sample.picture, target).truth(size)  # which says so
        except VertebraError as error:
            return target, [str(error)]
    for i, segment in enumerate(sample.segments):  # one by one: all masks of one picture can take gigabytes
        try:
            mask = segments.decode(segment, size, sample.where(i))
        except VertebraError as error:
            problems.append(str(error))
            continue
        if mask.any():
            boxes.append(segments.extent(mask))
        elif segment:  # [] is an object without a mask, which is a note of the catalogue
            problems.append(f"{sample.where(i)}: its mask has no pixel.")
    if target.boxes is None:
        found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        target = Target(boxes=found, areas=(found[:, 2:] - found[:, :2]).prod(1), path=target.path)
    elif target.labels is not None:
        rows = [(label, *box) for label, box in zip(target.labels.tolist(), target.boxes.tolist(), strict=True)]
        where = {row: i for i, row in reversed(list(enumerate(rows)))}
        problems += [
            f"{sample.where(i)} has the class and box of {sample.where(where[row]).rpartition(', ')[2]}."
            for i, row in enumerate(rows)
            if where[row] != i
        ]
    return target, problems


def _alike(one: Target, other: Target) -> bool:
    if one.boxes is None or other.boxes is None or one.labels is None or other.labels is None:
        return (one.labels is None) == (other.labels is None)
    return torch.equal(one.boxes, other.boxes) and torch.equal(one.labels, other.labels)


def _print(catalogue: Catalogue, seen: Seen) -> None:
    console = Console()
    counts = {split: catalogue.counts(split) for split in catalogue.splits}
    if "boxes" in catalogue.has:
        console.print(_table_of_objects(catalogue, counts))
        console.print(_table_of_sizes(catalogue, seen))
    else:
        console.print(_table_of_pictures(catalogue, counts))
    for note in catalogue.notes:
        print(f"note: {note}")
    if seen.sizes:
        for word, values in (("height", [h for h, _ in seen.sizes]), ("width", [w for _, w in seen.sizes])):
            print(f"{word}: {_range(values, ' pixels')}")
    train = counts.get("train", [])
    if "boxes" in catalogue.has:
        _note_rare(catalogue, train)
    elif train and max(train) >= 3 * max(1, min(train)):
        rare = catalogue.classes[train.index(min(train))]
        print(f"note: classes are uneven ({min(train)} to {max(train)} pictures, fewest {rare!r}): consider --balance")
    for problem in seen.problems:
        print(f"problem: {problem}")
    print(f"{len(seen.sizes)} pictures read, {len(seen.problems)} problems")


def _note_rare(catalogue: Catalogue, train: Sequence[int]) -> None:
    none = [name for name, count in zip(catalogue.classes, train, strict=False) if not count]
    if none:
        print(f"note: {len(none)} of {len(catalogue.classes)} classes have no object in train: {', '.join(none)}")
    some = [count for count in train if count]
    if some and max(some) >= 3 * min(some):
        rare = catalogue.classes[train.index(min(some))]
        print(f"note: classes are uneven ({min(some)} to {max(some)} objects, fewest {rare!r})")


def _table_of_pictures(catalogue: Catalogue, counts: dict[str, list[int]]) -> Table:
    table = Table(Column("class", overflow="fold"), title=escape(f"{catalogue.path} ({catalogue.kind})"))
    for split in catalogue.splits:
        table.add_column(split, justify="right", overflow="fold")
    for i, name in enumerate(catalogue.classes):
        table.add_row(escape(name), *(str(counts[split][i]) for split in catalogue.splits))
    table.add_section()
    table.add_row("all", *(str(sum(counts[split])) for split in catalogue.splits))
    return table


def _table_of_objects(catalogue: Catalogue, counts: dict[str, list[int]]) -> Table:
    """Per class and split the objects, their share, and the pictures that have one at least."""
    has = ", ".join(word for word in ("boxes", "masks", "keypoints") if word in catalogue.has)
    title = escape(f"{catalogue.path} ({catalogue.kind}: {has})")
    table = Table(Column("class", overflow="fold"), title=title, box=SIMPLE_HEAD, collapse_padding=True)
    shares = list(catalogue.splits) if len(catalogue.splits) < 3 else ["train"]  # more than 80 columns wide otherwise
    showing = {split: [0] * len(catalogue.classes) for split in catalogue.splits}
    for split, samples in catalogue.splits.items():
        for column in ("objects", "share", "pictures") if split in shares else ("objects", "pictures"):
            table.add_column(f"{split}\n{column}", justify="right", min_width=len(column), no_wrap=True)
        for sample in samples:
            assert sample.target.labels is not None
            for label in set(sample.target.labels.tolist()):
                showing[split][label] += 1
    for i, name in enumerate(catalogue.classes):
        row = [escape(name)]
        for split in catalogue.splits:
            share = [f"{counts[split][i] / max(1, sum(counts[split])):.1%}"] if split in shares else []
            row += [str(counts[split][i]), *share, str(showing[split][i])]
        table.add_row(*row)
    table.add_section()
    ends: list[str] = []
    for split, samples in catalogue.splits.items():
        ends += [str(sum(counts[split])), *([""] if split in shares else []), str(len(samples))]
    table.add_row("all", *ends)
    return table


def _table_of_sizes(catalogue: Catalogue, seen: Seen) -> Table:
    table = Table("objects", *catalogue.splits)
    rows: dict[str, list[str]] = {}
    for split in catalogue.splits:
        targets = seen.targets.get(split, [])
        boxes = torch.cat([t.boxes for t in targets if t.boxes is not None] or [torch.zeros(0, 4)])
        areas = torch.cat([t.areas for t in targets if t.areas is not None] or [torch.zeros(0)])
        numbers = [len(t.boxes) for t in targets if t.boxes is not None]
        count = max(1, len(areas))
        for word, text in (
            ("per picture", _range(numbers)),
            ("pictures without any", str(numbers.count(0))),
            ("crowd regions", str(sum(int(t.crowd.sum()) for t in targets if t.crowd is not None))),
            ("box width", _range((boxes[:, 2] - boxes[:, 0]).tolist())),
            ("box height", _range((boxes[:, 3] - boxes[:, 1]).tolist())),
            ("small, area < 32²", f"{(areas < SMALL).sum() / count:.1%}"),
            ("medium", f"{((areas >= SMALL) & (areas < LARGE)).sum() / count:.1%}"),
            ("large, area ≥ 96²", f"{(areas >= LARGE).sum() / count:.1%}"),
        ):
            rows.setdefault(word, []).append(text)
    for word, texts in rows.items():
        table.add_row(word, *texts)
    return table


def _range(values: Sequence[float], unit: str = "") -> str:
    if not values:
        return "none"
    short = [f"{round(v, 1):g}" for v in (min(values), max(values), statistics.median(values))]
    return f"{short[0]} to {short[1]}{unit}, median {short[2]}"
