"""`vertebra label TEACHER IMAGES --save=FOLDER`: a model's predictions, as a dataset that others are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vertebra.cli.parsing import REQUIRED, parse, parser
from vertebra.errors import VertebraError, escaped, in_range
from vertebra.files import expanded


@dataclass
class Options:
    threshold: float | None = None
    """Of objects and tags: those with a lower score are dropped, 0..1; default: the checkpoint's best F1, else 0.5."""
    tta: bool = False
    """Test-time augmentation: merge the predictions on the image, the mirrored image and, for objects, smaller and
    larger images."""
    batch_size: int | None = None
    """Most images per forward pass; default: 16, on a CPU fewer if they are large."""
    strict: bool = False
    """Stop at the first image that cannot be read, instead of skipping it."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`, one GPU such as cuda:1, or `auto`: a GPU if there is one, else the CPU; default: auto."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Number format of the computation."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("label", "Stores a model's predictions as a dataset of the images.")
    arguments.add_argument("teacher", help="best.safetensors, or the run folder that holds it.")
    arguments.add_argument(
        "images", nargs="+", help="Image files, folders, patterns such as 'in/*.jpg', and lists (.txt)."
    )
    arguments.add_option(
        "save",
        "Folder for the dataset, empty or not there: labels.csv and soft_labels.safetensors of classes and "
        "tags, COCO annotations of objects, PNG files of label maps.",
        default=REQUIRED,
    )
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)
    in_range("batch_size", options.batch_size, 1)
    folder = expanded(options.save)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VertebraError(f"{folder} is in use; --save takes a folder that is empty or not there.")

    from vertebra.images import UnreadableImage
    from vertebra.kinds.writers import WriterOptions
    from vertebra.predict import Predictor
    from vertebra.predict.predictor import usual_batch_size
    from vertebra.predict.sources import expand
    from vertebra.progress import track

    sources = list({source.name: source for word in options.images for source in expand(word)}.values())
    for source in sources:
        if not isinstance(getattr(source, "image", None), Path):
            raise VertebraError(f"{source.name} is no image file: a dataset is made of files.")
    predictor = Predictor(options.teacher, device=options.device, precision=options.precision)
    results = predictor.stream(
        sources,
        batch_size=options.batch_size or usual_batch_size(predictor.task),
        threshold=options.threshold,
        tta=options.tta,
    )
    writing = WriterOptions(
        predictor.classes, keypoints=predictor.keypoints, independent=predictor.task.independent_classes
    )
    writer = predictor.kind.labels_writer(folder, writing)
    folder.mkdir(parents=True, exist_ok=True)
    count = objects = 0
    with writer:
        for number, result in enumerate(track(results, "labelling", len(sources)), 1):
            if isinstance(result, UnreadableImage):
                if options.strict:
                    raise result
                print(escaped(f"skipped: {result}"))
                continue
            count += 1
            objects += len(result) if predictor.kind.objects else 0
            writer.add(result, number, "")
        if not count:
            raise VertebraError("none of the images could be read.")
    if count < len(sources):
        print(f"{len(sources) - count} of {len(sources)} images could not be read and were skipped")
    if predictor.kind.objects and not objects:
        print("no object's score reaches the threshold, so there is nothing to train on: lower --threshold")
    with_objects = f" with {objects} objects" if predictor.kind.objects else ""
    print(f"{count} images{with_objects} in {folder}: {', '.join(writer.files)}")
    print(f"next: vertebra train {predictor.task.task_name} --data.path={folder}")
