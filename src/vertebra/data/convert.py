"""A data set from one format to another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vertebra import pictures
from vertebra.data import coco, instance_masks, readers, segments, shapes, voc, yolo
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.errors import VertebraError, one_of
from vertebra.files import expanded

FORMATS = {"coco": coco, "voc": voc, "yolo": yolo, "masks": instance_masks}


def convert(path: str | Path, to: str, save: str | Path, seed: int = 0) -> tuple[Catalogue, list[str]]:
    """Writes the objects of a data set in the format `to`, with its own splits and its pictures byte for byte.

    Args:
        path: as for `open_data`.
        to: `coco`, `voc`, `yolo` or `masks`.
        save: a folder that is empty or not there.
        seed: of the built-in shapes.

    Returns:
        What was written, and what the format cannot hold.

    Raises:
        VertebraError: if the data has no objects, no masks for `masks`, or the folder is in use.
    """
    one_of("to", to, FORMATS)
    folder = expanded(save)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VertebraError(f"{folder} is in use; --save takes a folder that is empty or not there.")
    catalogue = shapes.objects("all", seed) if str(path) == "shapes" else readers.read(path, want=None)
    if "boxes" not in catalogue.has:
        raise VertebraError(
            f"{catalogue.path} has classes of whole pictures but no boxes; what is converted are objects in pictures."
        )
    if to == "masks" and "masks" not in catalogue.has:
        raise VertebraError(f"{catalogue.path} has boxes but no masks: convert it to coco, voc or yolo.")
    catalogue.splits = {
        split: [whole for sample in samples if (whole := _whole(sample, catalogue))]
        for split, samples in catalogue.splits.items()
    }
    return catalogue, FORMATS[to].write(catalogue, folder)


def _whole(sample: Sample, catalogue: Catalogue) -> Sample | None:
    """The sample with its size, and with boxes even if these come from the masks; None if it cannot be read."""
    if not isinstance(sample.picture, Path):
        return sample
    try:
        size = pictures.measure(sample.picture)
        if sample.target.size == size:
            return sample
        target = sample.truth(size, pieces=True)
    except VertebraError as error:
        catalogue.broken.append(f"{str(error).removesuffix('.')}; {sample.picture} is left out.")
        return None
    masks = [] if target.masks is None else [segments.encode(target.masks[i]) for i in range(len(target.masks))]
    return Sample(sample.picture, replace(target, masks=None), tuple(masks))
