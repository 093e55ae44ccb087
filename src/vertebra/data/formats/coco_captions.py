"""COCO's captions: a JSON file with several sentences for each image.

Source: COCO's documentation, "Data format", section 5, "Image Captioning".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vertebra.data.annotations import split_of
from vertebra.data.catalogue import SPLITS, Catalogue
from vertebra.data.exports import Export, ExportedImage, by_split, mapping
from vertebra.data.formats import ReadOptions, coco
from vertebra.data.rows import captions_of
from vertebra.errors import VertebraError, shown
from vertebra.files import read_json

PRIORITY = 32
FIELDS = frozenset({"text"})
TITLE = "COCO captions JSON"


def recognise(path: Path) -> bool:
    """Whether it is such a .json file, or a folder with one, in itself or in `annotations/`."""
    if path.is_file():
        return path.suffix.lower() == ".json" and coco.is_captions(path, by_content=True)
    return bool(_files(path))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images of a COCO folder or of one JSON file, which lie where those of COCO's other files do.

    Raises:
        VertebraError: if a file is damaged or not of this format, if an id is given twice or refers to nothing, or if
            no image with a caption is there.
    """
    export = Export(path, "coco_captions", options)
    files = {split_of(path.stem) or "train": path} if path.is_file() else by_split(_files(path))
    for split in SPLITS:
        if split in files:
            _add(files[split], split, export)
    return export.captioned()


def _files(path: Path) -> list[Path]:
    """The JSON files in `annotations/`, or else in the folder itself."""
    for folder in (path / "annotations", path):
        if files := [file for file in sorted(folder.glob("*.json")) if file.is_file() and coco.is_captions(file)]:
            return files
    return []


def _add(file: Path, split: str, export: Export) -> None:
    """Adds the images of a file with their captions."""
    content = read_json(file)
    if missing := coco.missing_list(content, ("images", "annotations")):
        raise VertebraError(f"{file} is not a COCO captions file: it has no {missing} (images and annotations).")
    images = coco.images_of(file, content)
    names = [entry["file_name"] for entry in images.values()]
    folder = coco.image_folder(file, split, names, export.listing, export.options.missing_ok)
    entries = {
        number: ExportedImage(f"{file}, image {number}", folder / image["file_name"], id=number)
        for number, image in images.items()
    }
    for place, annotation in enumerate(content["annotations"]):
        with export.skipping(f"{file}, annotations[{place}]") as where:
            number: Any = mapping(annotation, "annotation").get("image_id")
            if type(number) is not int or number not in images:
                raise VertebraError(f"{where}: its image is {shown(number)}, but there is none in the file.")
            entries[number].captions += captions_of(annotation)
    for entry in entries.values():
        export.add(split, entry)
