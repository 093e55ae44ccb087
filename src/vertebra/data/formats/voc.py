"""Pascal VOC's XML: boxes, one file per image.

VOC counts pixels from 1 and its boxes include their last pixel, so a box here is xmin - 1, ymin - 1, xmax, ymax.
`difficult` objects are treated as crowd: ignored in training and evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from vertebra.data.annotations import Annotation, Gatherer, Listing, check_class_names, split_folders
from vertebra.data.catalogue import SPLITS, Catalogue, Sample
from vertebra.data.copies import Copies
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError, escaped, shown
from vertebra.files import read_text, read_xml
from vertebra.images import SUFFIXES, UnreadableImage, image_size
from vertebra.structures import Target

PRIORITY = 50
FIELDS = frozenset({"boxes", "labels", "crowd", "areas"})
TITLE = "Pascal VOC XML"
NEEDS = frozenset({"boxes"})
LISTS = Path("ImageSets", "Main")
PLACES = ("JPEGImages", "images", "Images")
"""Folders of the images, if they are not beside their XML."""


def recognise(path: Path) -> bool:
    """Whether a folder holds XML in `Annotations/`, in itself or in the folders of splits."""
    return path.is_dir() and (_holds(path) or bool(split_folders(path, _holds)))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """A VOC folder (`Annotations/`, `JPEGImages/`, maybe `ImageSets/Main/SPLIT.txt`), or XML beside the images.

    Classes are the names that occur, in alphabetical order. The image of an XML file has the same name, or else the
    one that the file states.

    Raises:
        VertebraError: if a file is damaged or lacks what every VOC file has.
    """
    notes: list[str] = []
    gatherer = Gatherer(options.fields)
    listing = Listing()
    folders = {"train": path} if _holds(path) else split_folders(path, _holds)
    files: dict[str, list[Path]] = {}
    for split, folder in folders.items():
        files |= _files(folder, split, listing, gatherer, notes)
    files = {split: files[split] for split in SPLITS if split in files}
    trees = {file: _parsed(file) for files_of_split in files.values() for file in files_of_split}
    names = {_name(file, i, o) for file, tree in trees.items() for i, o in _objects(tree)}
    classes = check_class_names(sorted(names), path)
    index = {name: i for i, name in enumerate(classes)}
    splits: dict[str, list[Sample]] = {split: [] for split in files}
    for split, files_of_split in files.items():
        for file in files_of_split:
            try:
                image = _image(file, trees[file], listing)
                size = _size(file, trees[file]) or image_size(image)
            except UnreadableImage as error:
                gatherer.problems.append(f"{file} is skipped: {error}")
                continue
            splits[split].append(gatherer.sample(image, size, _annotations(file, trees[file], index)))
    return gatherer.catalogue(path, "voc", classes, splits, notes)


def _holds(folder: Path) -> bool:
    return any(any(place.glob("*.xml")) for place in (folder / "Annotations", folder / "annotations", folder))


def _files(folder: Path, split: str, listing: Listing, gatherer: Gatherer, notes: list[str]) -> dict[str, list[Path]]:
    """The XML files of each split, by the lists in a folder; without lists, all are of `split`."""
    places = (folder / "Annotations", folder / "annotations", folder)
    place = next(p for p in places if any(name.endswith(".xml") for name in listing.names(p)))
    every = sorted(place / name for name in listing.names(place) if name.endswith(".xml"))
    lists = {name: folder / LISTS / f"{name}.txt" for name in SPLITS if f"{name}.txt" in listing.names(folder / LISTS)}
    if "train" not in lists and "trainval.txt" in listing.names(folder / LISTS):
        lists["train"] = folder / LISTS / "trainval.txt"
    if not lists:
        return {split: every}
    files: dict[str, list[Path]] = {}
    for name, path in lists.items():
        files[name] = []
        for line, text in enumerate(read_text(path).splitlines(), 1):
            if not text.strip():
                continue
            names = (text.strip(), text.split()[0])  # in some lists a number follows the name
            file = next((f for n in names if str(f := place / f"{n}.xml") in listing), None)
            if file:
                files[name].append(file)
            else:
                file = place / f"{names[0]}.xml"
                gatherer.problems.append(f"{path}, line {line} is skipped: {file} is not there.")
    if rest := set(every) - {file for listed in files.values() for file in listed}:
        notes.append(f"ignored, in no list of {folder / LISTS}: {len(rest)} XML files, {min(rest)} for one")
    return {name: listed for name, listed in files.items() if listed}


def _parsed(file: Path) -> ElementTree.Element:
    root = read_xml(file)
    if root.tag != "annotation":
        tag = escaped(root.tag[:80])
        raise VertebraError(f"{file} is not a VOC annotation: its root is <{tag}>, not <annotation>.")
    return root


def _objects(root: ElementTree.Element) -> Iterator[tuple[int, ElementTree.Element]]:
    return enumerate(root.findall("object"), 1)


def _name(file: Path, number: int, element: ElementTree.Element) -> str:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise VertebraError(f"{file}, object {number}: it has no <name>.")
    return name


def _image(file: Path, root: ElementTree.Element, listing: Listing) -> Path:
    top = file.parent.parent
    folders = [top / place for place in PLACES] if file.parent.name.lower() == "annotations" else []
    folders.append(file.parent)
    stated = Path((root.findtext("filename") or "").strip().replace("\\", "/")).name
    for folder in folders:
        names = [f"{file.stem}{ending}" for suffix in SUFFIXES for ending in (suffix, suffix.upper())]
        for name in [*names, stated]:
            if name and name in listing.names(folder):
                return folder / name
    raise UnreadableImage(f"{folders[0] / (stated or file.stem)} is not there.")


def _size(file: Path, root: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width) as the file states it; None if it does not, or states zeros as some tools do."""
    size = []
    for side in ("height", "width"):
        text = (root.findtext(f"size/{side}") or "0").strip()
        if not re.fullmatch(r"-?[0-9]{1,9}(\.0*)?", text):
            raise VertebraError(f"{file}: its <{side}> is {shown(text)}, a whole number is expected.")
        size.append(int(float(text)))
    return (size[0], size[1]) if min(size) > 0 else None


def _annotations(file: Path, root: ElementTree.Element, index: dict[str, int]) -> Iterator[Annotation]:
    for number, element in _objects(root):
        name = _name(file, number, element)
        where = f"{file}, object {number} ({escaped(name)})"
        box = []
        for key in ("xmin", "ymin", "xmax", "ymax"):
            text = element.findtext(f"bndbox/{key}")
            if text is None:
                raise VertebraError(f"{where}: it has no <{key}> in a <bndbox>.")
            try:
                box.append(float(text.replace("_", "no number")))
            except ValueError as error:
                raise VertebraError(f"{where}: its <{key}> is {shown(text.strip())}, a number is expected.") from error
        crowd = (element.findtext("difficult") or "").strip().lower()
        box = [box[0] - 1, box[1] - 1, box[2], box[3]]
        yield Annotation(where, index[name], box, crowd=crowd, id=number)


def write(catalogue: Catalogue, folder: Path) -> list[str]:
    """Writes `Annotations/`, `JPEGImages/` and `ImageSets/Main/SPLIT.txt`; crowd becomes `difficult`.

    Returns:
        What VOC cannot hold and the data has.
    """
    copies = Copies(folder / "JPEGImages", stems=True)
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    (folder / LISTS).mkdir(parents=True, exist_ok=True)
    for split, samples in catalogue.splits.items():
        names = []
        for sample in samples:
            image = copies.add(sample.image)
            names.append(image.stem)
            path = folder / "Annotations" / f"{image.stem}.xml"
            document(sample.target, image.name, catalogue.classes).write(path, encoding="utf-8")
        (folder / LISTS / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    used = {label for samples in catalogue.splits.values() for sample in samples for label in _labels(sample.target)}
    unused = [name for i, name in enumerate(catalogue.classes) if i not in used]
    lost: list[str] = [word for word in ("masks", "keypoints") if word in catalogue.has]
    lost += ["areas", "ids"] if catalogue.format == "coco" else []
    return lost + ([f"the classes without an object ({', '.join(unused)})"] if unused else [])


def _labels(target: Target) -> list[int]:
    assert target.labels is not None
    labels: list[int] = target.labels.tolist()
    return labels


def document(target: Target, name: str, classes: Sequence[str]) -> ElementTree.ElementTree:
    """The file of one image.

    Args:
        target: with boxes, labels and size.
        name: of the image's file.
        classes: names of the classes.
    """
    assert target.boxes is not None
    assert target.size is not None
    labels = _labels(target)
    root = ElementTree.Element("annotation")

    def add(to: ElementTree.Element, tag: str, text: object = "") -> ElementTree.Element:
        element = ElementTree.SubElement(to, tag)
        element.text = str(text)
        return element

    add(root, "folder", "JPEGImages")
    add(root, "filename", name)
    size = add(root, "size")
    add(size, "width", target.size[1])
    add(size, "height", target.size[0])
    add(size, "depth", 3)
    crowd = target.crowd.tolist() if target.crowd is not None else [False] * len(labels)
    for box, label, difficult in zip(target.boxes.tolist(), labels, crowd, strict=True):
        element = add(root, "object")
        add(element, "name", classes[label])
        add(element, "difficult", int(difficult))
        bounds = add(element, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, *box[2:]), strict=True):
            add(bounds, tag, str(round(value, 3)).removesuffix(".0"))
    tree = ElementTree.ElementTree(root)
    ElementTree.indent(tree)
    return tree
