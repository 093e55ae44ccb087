"""Pascal VOC's XML: boxes, one file per picture.

VOC counts pixels from 1 and its boxes include their last pixel, so a box here is xmin - 1, ymin - 1, xmax, ymax.
`difficult` objects are treated as crowd: neither learned from nor counted as missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from vertebra import pictures
from vertebra.data.catalogue import SPLITS, Catalogue, Sample
from vertebra.data.copies import Copies
from vertebra.data.instances import Annotation, Gatherer, Listing, split_folders
from vertebra.errors import VertebraError
from vertebra.files import read_text

LISTS = Path("ImageSets", "Main")
PLACES = ("JPEGImages", "images", "Images")
"""Where the pictures lie, if not beside their XML."""


def recognise(path: Path) -> bool:
    """Whether a folder holds XML in `Annotations/`, in itself or in the folders of splits."""
    return _holds(path) or bool(split_folders(path, _holds))


def read(path: Path, want: str | None) -> Catalogue:
    """A VOC folder (`Annotations/`, `JPEGImages/`, maybe `ImageSets/Main/SPLIT.txt`), or XML beside the pictures.

    Classes are the names that occur, in alphabetical order. A picture is the one with the XML file's name, or else
    the one that the file names.

    Raises:
        VertebraError: if a file is damaged or lacks what every VOC file has.
    """
    notes: list[str] = []
    gatherer = Gatherer(want)
    listing = Listing()
    folders = {"train": path} if _holds(path) else split_folders(path, _holds)
    files: dict[str, list[Path]] = {}
    for split, folder in folders.items():
        files |= _files(folder, split, listing, gatherer, notes)
    files = {split: files[split] for split in SPLITS if split in files}
    trees = {file: _parsed(file) for found in files.values() for file in found}
    classes = tuple(sorted({_name(file, i, o) for file, tree in trees.items() for i, o in _objects(tree)}))
    index = {name: i for i, name in enumerate(classes)}
    splits: dict[str, list[Sample]] = {split: [] for split in files}
    for split, found in files.items():
        for file in found:
            try:
                picture = _picture(file, trees[file], listing)
                size = _size(file, trees[file]) or pictures.measure(picture)
            except pictures.BrokenPicture as error:
                gatherer.broken.append(f"{file} is left out: {error}")
                continue
            splits[split].append(gatherer.sample(picture, size, _annotations(file, trees[file], index)))
    return gatherer.catalogue(path, "voc", classes, splits, notes)


def _holds(folder: Path) -> bool:
    return any(any(place.glob("*.xml")) for place in (folder / "Annotations", folder / "annotations", folder))


def _files(folder: Path, split: str, listing: Listing, gatherer: Gatherer, notes: list[str]) -> dict[str, list[Path]]:
    """The XML files of each split that the lists of a folder tell of; all are of `split` without lists."""
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
            names = (text.strip(), text.split()[0])  # some lists say behind the name whether a class is there
            file = next((f for n in names if str(f := place / f"{n}.xml") in listing), None)
            if file:
                files[name].append(file)
            else:
                file = place / f"{names[0]}.xml"
                gatherer.broken.append(f"{path}, line {line} is left out: {file} is not there.")
    if rest := set(every) - {file for found in files.values() for file in found}:
        notes.append(f"passed over, in no list of {folder / LISTS}: {len(rest)} XML files, {min(rest)} for one")
    return {name: found for name, found in files.items() if found}


def _parsed(file: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        line, _ = error.position
        raise VertebraError(f"{file}, line {line}: not valid XML ({error}); the file may be cut short.") from error
    except (ValueError, LookupError) as error:  # an encoding that is none
        raise VertebraError(f"{file} is not valid XML ({error}).") from error
    if root.tag != "annotation":
        raise VertebraError(f"{file} is not a VOC annotation: its root is <{root.tag}>, not <annotation>.")
    return root


def _objects(root: ElementTree.Element) -> Iterator[tuple[int, ElementTree.Element]]:
    return enumerate(root.findall("object"), 1)


def _name(file: Path, number: int, element: ElementTree.Element) -> str:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise VertebraError(f"{file}, object {number}: it has no <name>.")
    return name


def _picture(file: Path, root: ElementTree.Element, listing: Listing) -> Path:
    top = file.parent.parent
    folders = [top / place for place in PLACES] if file.parent.name.lower() == "annotations" else []
    folders.append(file.parent)
    written = Path((root.findtext("filename") or "").strip().replace("\\", "/")).name
    for folder in folders:
        names = [f"{file.stem}{ending}" for suffix in pictures.SUFFIXES for ending in (suffix, suffix.upper())]
        for name in [*names, written]:
            if name and name in listing.names(folder):
                return folder / name
    raise pictures.BrokenPicture(f"{folders[0] / (written or file.stem)} is not there.")


def _size(file: Path, root: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width) as the file tells it; None if it does not, or with zeros as some tools write."""
    try:
        size = (int(root.findtext("size/height") or 0), int(root.findtext("size/width") or 0))
    except ValueError as error:
        raise VertebraError(f"{file}: its <size> is not in whole numbers ({error}).") from error
    return size if min(size) > 0 else None


def _annotations(file: Path, root: ElementTree.Element, index: dict[str, int]) -> Iterator[Annotation]:
    for number, element in _objects(root):
        name = _name(file, number, element)
        where = f"{file}, object {number} ({name})"
        box = []
        for key in ("xmin", "ymin", "xmax", "ymax"):
            text = element.findtext(f"bndbox/{key}")
            if text is None:
                raise VertebraError(f"{where}: it has no <{key}> in a <bndbox>.")
            try:
                box.append(float(text))
            except ValueError as error:
                raise VertebraError(f"{where}: its <{key}> is {text.strip()!r}, a number is expected.") from error
        crowd = (element.findtext("difficult") or "0").strip() == "1"
        box = [box[0] - 1, box[1] - 1, box[2], box[3]]
        yield Annotation(where, index[name], box, crowd=crowd, number=number)


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
            picture = copies.add(sample.picture)
            names.append(picture.stem)
            tree = ElementTree.ElementTree(_tree(sample, picture.name, catalogue.classes))
            ElementTree.indent(tree)
            tree.write(folder / "Annotations" / f"{picture.stem}.xml", encoding="utf-8")
        (folder / LISTS / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    counts = [sum(numbers) for numbers in zip(*(catalogue.counts(split) for split in catalogue.splits), strict=True)]
    unused = [name for name, count in zip(catalogue.classes, counts, strict=True) if not count]
    lost: list[str] = [word for word in ("masks", "keypoints") if word in catalogue.has]
    lost += ["areas", "ids"] if catalogue.kind == "coco" else []
    return lost + ([f"the classes without an object ({', '.join(unused)})"] if unused else [])


def _tree(sample: Sample, name: str, classes: tuple[str, ...]) -> ElementTree.Element:
    target = sample.target
    assert target.boxes is not None
    assert target.labels is not None
    assert target.size is not None
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
    crowd = target.crowd.tolist() if target.crowd is not None else [False] * len(target.labels)
    for box, label, difficult in zip(target.boxes.tolist(), target.labels.tolist(), crowd, strict=True):
        element = add(root, "object")
        add(element, "name", classes[label])
        add(element, "difficult", int(difficult))
        bounds = add(element, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, *box[2:]), strict=True):
            add(bounds, tag, str(round(value, 3)).removesuffix(".0"))
    return root
