"""A dataset from one format to another."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from vertebra.data import reading
from vertebra.data.catalogue import Catalogue, Sample, describe_fields
from vertebra.data.formats import writable
from vertebra.errors import VertebraError, one_of, shown
from vertebra.files import expanded
from vertebra.images import image_size
from vertebra.ops import rle

NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML, YAML or the name of a folder cannot hold."""


def convert(path: str | Path, to: str, save: str | Path, seed: int = 0) -> tuple[Catalogue, list[str]]:
    """Writes the objects of a dataset in the format `to`, with its own splits and its image files byte for byte.

    Args:
        path: as for `open_data`.
        to: name of a format that can be written: `coco`, `voc`, `yolo` or `masks`.
        save: a folder that is empty or not there.
        seed: of the built-in shapes.

    Returns:
        What was written, and what the format cannot hold.

    Raises:
        VertebraError: if the data lacks what the format needs, such as masks for `masks`, if the name of a class has
            control characters, or the folder is in use.
    """
    writers = writable()
    one_of("to", to, writers)
    folder = expanded(save)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VertebraError(f"{folder} is in use; --save takes a folder that is empty or not there.")
    catalogue = reading.read(path, seed=seed)
    if missing := writers[to].NEEDS - catalogue.has:
        lacks = f"{catalogue.path} has {describe_fields(catalogue.has)} but no {describe_fields(missing)}"
        *others, last = [name for name, module in writers.items() if catalogue.has >= module.NEEDS] or [""]
        if last:
            raise VertebraError(f"{lacks}: convert it to {', '.join(others)}{' or ' if others else ''}{last}.")
        raise VertebraError(f"{lacks}; {', '.join(writers)} hold objects in images.")
    for name in catalogue.classes:
        if NO_TEXT.search(name):
            raise VertebraError(f"class {shown(name)} has characters that are no text; rename it in the data.")
    catalogue.splits = {
        split: [complete for sample in samples if (complete := _complete(sample, catalogue))]
        for split, samples in catalogue.splits.items()
    }
    return catalogue, writers[to].write(catalogue, folder)


def _complete(sample: Sample, catalogue: Catalogue) -> Sample | None:
    """The sample with its size, and with boxes even if these come from the masks; None if it cannot be read."""
    if isinstance(sample.image, Tensor):
        return sample
    try:
        size = image_size(sample.image)
        if sample.target.size == size:
            return sample
        target = sample.load_target(size)
    except VertebraError as error:
        catalogue.problems.append(f"{str(error).removesuffix('.')}; {sample.image} is skipped.")
        return None
    segments = () if target.masks is None else tuple(rle.encode(target.masks))
    return Sample(sample.image, replace(target, masks=None), segments)
