"""`vertebra refine RESULTS --data.path=... --model=REFINER --save=OUT`: refines the masks of any tool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vertebra.cli.parsing import REQUIRED, parse, parser
from vertebra.cli.tables import console
from vertebra.errors import VertebraError, escaped, in_range
from vertebra.files import expanded


@dataclass
class RefinementData:
    path: str = ""
    """The images: a dataset in any form that `vertebra train` takes, or a folder of images. The results are judged by
    its masks, if it has any."""
    split: Literal["train", "val", "test"] = "val"
    """The split that the results are of; if there is one only, it is that."""


@dataclass
class Options:
    data: RefinementData = field(default_factory=RefinementData)
    """Images of the results"""
    patch_size: int | None = None
    """Side of a patch in pixels; default: as in training."""
    nms_threshold: float | None = None
    """Patches of one mask do not overlap by a larger IoU, 0..1; a higher threshold keeps more patches; default: as in
    training."""
    padding: int | None = None
    """Pixels around a patch that the network sees but does not change; default: as in training."""
    cover: bool = False
    """Add patches until every boundary pixel lies in one."""
    relative: float = 0.0
    """Side of a patch as a fraction of the longer side of the object's box, 16 pixels at least; 0 takes patch_size."""
    uncertain: float = 0.0
    """Refine only patches whose coarse mask does not explain the colours beside its boundary, 0..1; 0 refines all."""
    passes: int = 1
    """How often masks are refined, from those of the pass before."""
    batch_size: int = 64
    """Most patches per forward pass; it does not change the masks."""
    max_detections: int = 100
    """Top-scoring masks judged per image and class."""
    strict: bool = False
    """Stop at the first image that cannot be read, instead of keeping its masks as they are."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`, one GPU such as cuda:1, or `auto`: a GPU if there is one, else the CPU; default: auto."""


SHOWN = 7
"""Metrics on the screen; the report has all."""
REFINER_OPTIONS = ("patch_size", "nms_threshold", "padding", "cover", "relative", "uncertain", "passes", "batch_size")


def run(argv: Sequence[str]) -> None:
    arguments = parser("refine", "Refines the masks in the results of any tool along their boundaries.")
    arguments.add_argument(
        "results",
        help="A .json of COCO results, a folder of Cityscapes' text files with masks, or a folder of mask files.",
    )
    arguments.add_option(
        "model", "best.safetensors of `vertebra train refinement`, or its run folder.", default=REQUIRED
    )
    arguments.add_option("save", "Folder for the refined results, in their form, and report.html.", default=REQUIRED)
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)
    results, folder = expanded(options.results), expanded(options.save)
    _check(options, results, folder)

    from vertebra.data.reading import read_images
    from vertebra.engine.evaluate import choose_split
    from vertebra.kinds.refined import NOTE, change, refine_results, rows_of
    from vertebra.kinds.results import read_masks
    from vertebra.metrics.evaluation import written
    from vertebra.predict import Predictor
    from vertebra.refine import Refiner

    network = Predictor(options.model, device=options.device).task
    refiner = Refiner(network, **{name: getattr(options, name) for name in REFINER_OPTIONS})
    catalogue = read_images(options.data.path)
    split = choose_split(catalogue, options.data.split)
    for note in catalogue.notes:
        print(escaped(f"note: {note}"))
    for problem in catalogue.skipped(strict=options.strict):
        print(escaped(f"skipped: {problem}"))
    masks = read_masks(results, catalogue, split)
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{options.results} refined by {options.model}"
    done = refine_results(
        masks,
        catalogue,
        split,
        refiner,
        folder,
        title=title,
        max_detections=options.max_detections,
        strict=options.strict,
    )
    for sentence in done.unreadable:
        print(escaped(f"skipped: {sentence}"))
    if done.before:
        table = Table("metric", box=SIMPLE_HEAD)
        for heading in ("before", "after", "change"):
            table.add_column(heading, justify="right")
        for name, before, after in rows_of(done)[:SHOWN]:
            table.add_row(name, *(written(value, 4) for value in (before, after)), change(before, after))
        console().print(table)
        print(NOTE)
    print(done.summary())
    print(f"look at {folder / 'report.html'}; the results are in {folder / results.name}")


def _check(options: SimpleNamespace, results: Path, folder: Path) -> None:
    """Checks that need no model."""
    in_range("max_detections", options.max_detections, 1)
    if not options.data.path:
        raise VertebraError(f"{options.results} does not say which images it is of: give --data.path.")
    if folder.suffix == ".json" or (folder.exists() and not folder.is_dir()):
        raise VertebraError(f"--save={folder} is a file; name a folder, in which the results keep their name.")
    if (folder / results.name).resolve() == results.resolve():
        raise VertebraError(f"{results} would be overwritten: choose another folder to save to.")
