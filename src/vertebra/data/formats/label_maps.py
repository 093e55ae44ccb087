"""Images with a label map each: semantic segmentation and saliency.

Pairs come in these forms:

- list files `train.txt`, `val.txt`, `test.txt` whose lines name an image and its label map, relative to the folder;
- `JPEGImages/`, `SegmentationClass/` and `ImageSets/Segmentation/train.txt`, as Pascal VOC and CVAT have them;
- `leftImg8bit/train/CITY/NAME_leftImg8bit.png` and `gtFine/train/CITY/NAME_gtFine_labelTrainIds.png`, as Cityscapes;
- a folder of images and one of label maps, within folders of splits, or with folders of splits within them; the label
  map of `NAME.jpg` is `NAME.png`, or has one of ENDINGS;
- images and label maps side by side in one folder, as `NAME.jpg` and `NAME.png`, or `NAME_mask.png`.

Classes are named by `classes.json` (`{"names": [...]}`, maybe with `colours` and `ignore_index`; or a list),
`labelmap.txt` (CVAT), `_classes.csv` (Roboflow), `class_dict.csv` (name, red, green, blue), `label_colors.txt`
(red, green, blue, name), `objectInfo150.txt` (ADE20K) or `classes.txt` (a name per line). Without such a file masks
of two values, black and white, are background and foreground.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vertebra.data.annotations import check_class_names
from vertebra.data.catalogue import SPLIT_NAMES, SPLITS, Catalogue, Sample
from vertebra.data.copies import Copies
from vertebra.data.formats import ReadOptions, masks
from vertebra.data.label_maps import Colour, LabelMap, LabelTable, paint
from vertebra.errors import VertebraError, shown
from vertebra.files import read_json, read_text, replacing
from vertebra.images import SUFFIXES, UnreadableImage, decode, open_image
from vertebra.structures import IGNORED, Target

PRIORITY = 62
FIELDS = frozenset({"semantic"})
TITLE = "label maps"
NEEDS = frozenset({"masks"})
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "photos", "leftimg8bit")
MAP_FOLDERS = (
    *("labels", "label", "masks", "mask", "annotations", "annots", "segmentationclass", "gtfine", "gt", "groundtruth"),
    *("ground_truth", "ground_truth_mask", "labeltrainids", "segmentation", "saliency"),
)
ENDINGS = (
    *("", "_mask", "_label", "_labels", "_gt", "_seg", "_segmentation", "_L", "_gtFine_labelTrainIds"),
    *("_gtFine_labelIds", "_labelTrainIds", "_labelIds"),
)
"""What may follow the name of the image in that of its label map."""
CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The values of CITYSCAPES in `labelIds`; in `labelTrainIds` they are 0 to 18."""
TABLES = ("classes.json", "labelmap.txt", "_classes.csv", "class_dict.csv", "label_colors.txt", "objectInfo150.txt")
EXAMINED = 20
"""Label maps whose values are looked at where nothing names the classes."""

Pair = tuple[Path, Path]


def recognise(path: Path) -> bool:
    """Whether images with label maps are in a folder, in one of the forms.

    Masks that nothing names the classes of may be those of instances, which another format reads, unless they are
    white: the numbers of instances are small.
    """
    pairs = list(itertools.islice(_all_pairs(path), EXAMINED)) if path.is_dir() else []
    if not pairs:
        return False
    if not masks.recognise(path) or any((path / name).is_file() for name in (*TABLES, "classes.txt")):
        return True
    return _are_white([label_map for _, _, label_map in pairs])


def read(path: Path, options: ReadOptions) -> Catalogue:
    """Images with label maps, in one of the forms.

    Raises:
        VertebraError: if nothing names the classes, or their file is damaged.
    """
    pairs: dict[str, list[Pair]] = {}
    problems: list[str] = []
    notes: list[str] = []
    for split, image, label_map in _all_pairs(path):
        if not label_map.is_file():
            problems.append(f"{image} is skipped: its label map {label_map.name} is not there.")
        elif not image.is_file():
            problems.append(f"{label_map} is skipped: its image {image.name} is not there.")
        else:
            pairs.setdefault(split, []).append((image, label_map))
    if not pairs:
        raise VertebraError(f"{path} has no image with a label map. {problems[0] if problems else ''}")
    if not (_any(_listed(path)) or _any(_voc(path))):
        problems += _lonely(pairs)
        notes += _unlabelled(pairs)
    maps = [label_map for files in pairs.values() for _, label_map in files]
    table = _table(path, pairs, notes)
    if table.values == {0: 0, 1: 1, IGNORED: IGNORED} and not table.colours and _is_black_and_white(maps):
        table = replace(table, values={0: 0, IGNORED: 1})
        notes.append(f"label maps have no values but 0 and 255: 255 is read as {shown(table.classes[1])}, not ignored")
    splits = {
        split: [Sample(image, Target(path=str(image)), label_map=LabelMap(file, table)) for image, file in pairs[split]]
        for split in SPLITS
        if split in pairs
    }
    return Catalogue(str(path), "label_maps", table.classes, splits, notes, problems, FIELDS)


def write(catalogue: Catalogue, folder: Path) -> list[str]:
    """Writes `images/SPLIT/`, `labels/SPLIT/` and `classes.json`: label maps painted from the masks of the objects, the
    background as the first class.

    Returns:
        What label maps cannot hold.
    """
    for split, samples in catalogue.splits.items():
        copies = Copies(folder / "images" / split, stems=True)
        (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
        for sample in samples:
            assert sample.target.size is not None
            stem = copies.add(sample.image).stem
            labels = paint(sample.load_target(sample.target.size))
            Image.fromarray(labels.numpy()).save(folder / "labels" / split / f"{stem}.png")
    with replacing(folder / "classes.json") as temporary:
        temporary.write_text(json.dumps({"names": ["background", *catalogue.classes]}))
    lost = ["which object a pixel belongs to, and objects beneath others"]
    return lost + (["keypoints"] if "keypoints" in catalogue.has else [])


# -- pairs of files


def _all_pairs(path: Path) -> Iterator[tuple[str, Path, Path]]:
    """The split, image and label map of every pair, in the first form that has any."""
    for form in (_listed, _voc, _in_folders, _side_by_side):
        first = next(pairs := form(path), None)
        if first is not None:
            yield from itertools.chain([first], pairs)
            return


def _listed(path: Path) -> Iterator[tuple[str, Path, Path]]:
    for alias, split in SPLIT_NAMES.items():
        file = path / f"{alias}.txt"
        if not file.is_file():
            continue
        for number, line in enumerate(read_text(file).splitlines(), 1):
            words = line.split("\t") if "\t" in line else line.split()
            if len(words) == 2:
                yield split, path / words[0].lstrip("/"), path / words[1].lstrip("/")
            elif words and number == 1:
                break  # a list of names, not of pairs
            elif words:
                raise VertebraError(f"{file}, line {number}: an image and its label map are expected.")


def _voc(path: Path) -> Iterator[tuple[str, Path, Path]]:
    maps, lists = path / "SegmentationClass", path / "ImageSets" / "Segmentation"
    if not (maps.is_dir() and lists.is_dir()):
        return
    images = {file.stem: file for file in _images(path / "JPEGImages")}
    for file in sorted(lists.glob("*.txt")):
        split = SPLIT_NAMES.get(file.stem.lower(), "train" if file.stem.lower() == "default" else "")
        if split:
            for name in read_text(file).split():
                yield split, images.get(name, path / "JPEGImages" / f"{name}.jpg"), maps / f"{name}.png"


def _in_folders(path: Path) -> Iterator[tuple[str, Path, Path]]:
    folders = {folder.name.lower(): folder for folder in _folders(path)}
    for images, maps in _folder_pairs(folders):
        below = {SPLIT_NAMES[f.name.lower()]: f for f in _folders(images) if f.name.lower() in SPLIT_NAMES}
        for split, folder in below.items() if below else [("train", images)]:
            there = maps if not below else next((f for f in _folders(maps) if f.name == folder.name), None)
            if there is not None:
                yield from ((split, *pair) for pair in _matched(folder, there))
    for name, folder in folders.items():
        if name in SPLIT_NAMES:
            inner = {below.name.lower(): below for below in _folders(folder)}
            for images, maps in _folder_pairs(inner):
                yield from ((SPLIT_NAMES[name], *pair) for pair in _matched(images, maps))


def _folder_pairs(folders: dict[str, Path]) -> Iterator[Pair]:
    """Folders of images and of label maps among `folders`, by their names in lower case."""
    for name, folder in folders.items():
        if name in IMAGE_FOLDERS:
            maps = next((folders[other] for other in MAP_FOLDERS if other in folders), None)
            if maps is not None:
                yield folder, maps
        elif name.endswith(("-image", "_image", "-images", "_images")):  # DUTS-TR-Image and DUTS-TR-Mask
            stem = re.sub(r"[-_]images?$", "", name)
            maps = next(
                (
                    folders[f"{stem}{end}"]
                    for end in ("-mask", "_mask", "-masks", "_masks")
                    if f"{stem}{end}" in folders
                ),
                None,
            )
            if maps is not None:
                yield folder, maps


def _matched(images: Path, maps: Path) -> Iterator[Pair]:
    """Images below a folder with the label maps of their names below another; cities have folders of their own."""
    by_stem = {str(file.relative_to(maps).with_suffix("")): file for file in _images(maps, deep=True)}
    for image in _images(images, deep=True):
        stem = re.sub(r"_leftImg8bit$", "", str(image.relative_to(images).with_suffix("")))
        label_map = next((by_stem[stem + end] for end in ENDINGS if stem + end in by_stem), None)
        if label_map is not None and label_map != image:
            yield image, label_map


def _side_by_side(path: Path) -> Iterator[tuple[str, Path, Path]]:
    folders = {SPLIT_NAMES[f.name.lower()]: f for f in _folders(path) if f.name.lower() in SPLIT_NAMES}
    for split, folder in folders.items() if folders else [("train", path)]:
        files = _images(folder)
        maps = {file.stem: file for file in files if file.suffix.lower() in (".png", ".bmp")}
        for image in files:
            ends = ENDINGS if image.suffix.lower() in (".jpg", ".jpeg") else ENDINGS[1:]
            label_map = next((maps[image.stem + end] for end in ends if image.stem + end in maps), None)
            if label_map is not None and label_map != image:
                yield split, image, label_map


def _any(pairs: Iterator[Any]) -> bool:
    return next(pairs, None) is not None


def _lonely(pairs: dict[str, list[Pair]]) -> list[str]:
    """A sentence for every image without a label map and label map without an image, beside those that are pairs."""
    problems = []
    used = {file for files in pairs.values() for pair in files for file in pair}
    for place, what in ((0, "label map"), (1, "image")):
        for folder in sorted({pair[place].parent for files in pairs.values() for pair in files}):
            problems += [f"{file} is skipped: it has no {what}." for file in _images(folder) if file not in used]
    return list(dict.fromkeys(problems))


def _unlabelled(pairs: dict[str, list[Pair]]) -> list[str]:
    """A note for every folder of a split that has images but no label maps, beside those that have."""
    used = {image.parent for files in pairs.values() for image, _ in files}
    parents = sorted({folder.parent for folder in used if folder.name.lower() in SPLIT_NAMES})
    return [
        f"{folder} is ignored: its images have no label maps"
        for parent in parents
        for folder in _folders(parent)
        if folder not in used and folder.name.lower() in SPLIT_NAMES and _images(folder)
    ]


def _folders(path: Path) -> list[Path]:
    return [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")] if path.is_dir() else []


def _images(folder: Path, *, deep: bool = False) -> list[Path]:
    if not folder.is_dir():
        return []
    files = folder.rglob("*") if deep else folder.iterdir()
    return sorted(p for p in files if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


# -- classes


def _table(path: Path, pairs: dict[str, list[Pair]], notes: list[str]) -> LabelTable:
    maps = [label_map for files in pairs.values() for _, label_map in files]
    folders = [path, *dict.fromkeys(image.parent for files in pairs.values() for image, _ in files[:1])]
    if (named := table_in(folders, TABLES)) is not None:
        return named
    if any(map_.stem.endswith("labelTrainIds") for map_ in maps[:1]):
        values = {i: i for i in range(len(CITYSCAPES))} | {IGNORED: IGNORED}
        return LabelTable(CITYSCAPES, values)
    if any(map_.stem.endswith("labelIds") for map_ in maps[:1]):
        values = dict.fromkeys(range(256), IGNORED) | {v: i for i, v in enumerate(CITYSCAPES_IDS)}
        return LabelTable(CITYSCAPES, values)
    return table_in([path], ("classes.txt",)) or _unnamed(path, maps, notes)


def table_in(folders: Sequence[Path], names: Sequence[str] = (*TABLES, "classes.txt")) -> LabelTable | None:
    """The classes that the first file of these names says that is in one of the folders; None without.

    Raises:
        VertebraError: if it is damaged.
    """
    for name in names:
        for folder in folders:
            if (folder / name).is_file():
                return _READERS[name](folder / name)
    return None


def _unnamed(path: Path, maps: list[Path], notes: list[str]) -> LabelTable:
    """Background and foreground, if the masks have no more."""
    values = _values(_some(maps))
    if values <= {0, 1, IGNORED} and 1 in values:
        return LabelTable(("background", "foreground"), {0: 0, 1: 1, IGNORED: IGNORED})
    grey = sum(1 for value in values if 16 <= value < 240)
    if grey <= 16 or any(file.suffix.lower() in (".jpg", ".jpeg") for file in maps[:1]):
        if grey:
            notes.append("masks have grey values: those of 128 and more are foreground, the others background")
        return LabelTable(("background", "foreground"), thresholded=True)
    raise VertebraError(
        f"{path} has label maps with {len(values)} values, up to {max(values)}, and nothing that names the classes: "
        'write a classes.json, {"names": ["road", "sky", ...], "ignore_index": 255}, in the order of the values.'
    )


def _are_white(maps: list[Path]) -> bool:
    """Whether most pixels that are not black are white, up to the grey of edges and of JPEG files."""
    counts = _histogram(maps, ("1", "L", "LA", "RGB", "RGBA"))  # others hold numbers
    return int(counts[240:].sum()) * 2 > int(counts[16:].sum()) > 0


def _is_black_and_white(maps: list[Path]) -> bool:
    """Whether the values are 0 and 255 alone; all files are read only if a few of them are so."""
    return _values(_some(maps)) == {0, 255} == _values(maps)


def _some(maps: list[Path]) -> list[Path]:
    return maps[:: max(1, len(maps) // EXAMINED)]


def _values(maps: list[Path]) -> set[int]:
    """The values that occur, in grey."""
    return set(np.flatnonzero(_histogram(maps)).tolist())


def _histogram(maps: list[Path], modes: Collection[str] | None = None) -> NDArray[np.int64]:
    """Pixels of each of the 256 grey values, over the files of these Pillow modes; of all if None."""
    counts = np.zeros(256, np.int64)
    for file in maps:
        with contextlib.suppress(UnreadableImage), open_image(file) as image:  # which is a problem of its image alone
            if modes is None or image.mode in modes:
                decode(image)
                counts += image.convert("L").histogram()
    return counts


def _of_json(path: Path) -> LabelTable:
    content = read_json(path)
    names = content.get("names") if isinstance(content, dict) else content
    if isinstance(names, dict):
        names = [names.get(str(i), names.get(i)) for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise VertebraError(f'{path}: {{"names": [...]}} or a list of the names of the classes is expected.')
    fields = content if isinstance(content, dict) else {}
    colours = fields.get("colours", fields.get("colors", fields.get("palette", []))) or []
    if not isinstance(colours, list) or len(colours) not in (0, len(names)):
        raise VertebraError(f"{path}: a colour for each of the {len(names)} names is expected.")
    return _made(path, names, colours, fields.get("ignore_index"))


def _made(path: Path, names: list[Any], colours: Iterable[Any], ignored: Any = None) -> LabelTable:
    """A table from names in the order of their values, one of which may stand for pixels that are ignored."""
    if ignored is not None and (not isinstance(ignored, int) or isinstance(ignored, bool) or not 0 <= ignored < 256):
        raise VertebraError(f"{path}: ignore_index is {shown(ignored)}; a value from 0 to 255 is expected.")
    kept = [i for i in range(len(names)) if i != ignored]
    labels = {value: label for label, value in enumerate(kept)}
    checked = check_class_names([names[i] for i in kept], path)
    by_colour: dict[Colour, int] = {}
    for value, colour in enumerate(colours):
        rgb = _colour(colour, path)
        if rgb in by_colour:
            raise VertebraError(f"{path}: two classes have the colour {rgb}.")
        by_colour[rgb] = labels.get(value, IGNORED)
    if len(names) > 256:
        raise VertebraError(f"{path}: {len(names):,} names; label maps have at most 256 values.")
    return LabelTable(checked, labels | {IGNORED: IGNORED} | ({} if ignored is None else {ignored: IGNORED}), by_colour)


def _colour(value: Any, path: Path) -> Colour:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        value = [int(value[i : i + 2], 16) for i in (1, 3, 5)]
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise VertebraError(f"{path}: the colour {shown(value)} is not red, green and blue from 0 to 255.")
    if any(isinstance(part, bool) or not isinstance(part, int) or not 0 <= part <= 255 for part in value):
        raise VertebraError(f"{path}: the colour {shown(value)} is not red, green and blue from 0 to 255.")
    return int(value[0]), int(value[1]), int(value[2])


def _of_cvat(path: Path) -> LabelTable:
    """`name:red,green,blue:parts:actions`; the class `background` comes first, or its black is class 0 in the maps."""
    names, colours = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split(":")
        numbers = re.findall(r"\d+", parts[1]) if len(parts) > 1 else []
        if len(numbers) != 3:
            raise VertebraError(f"{path}, line {number}: `name:red,green,blue::` is expected, not {shown(line)}.")
        names.append(parts[0].strip())
        colours.append([int(part) for part in numbers])
    return _made(path, names, colours)


def _of_roboflow(path: Path) -> LabelTable:
    """The columns `Pixel Value` and `Class`."""
    rows = _rows(path)
    values: dict[int, str] = {}
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or not row[0].strip().isdigit():
            if number == 1:
                continue
            raise VertebraError(f"{path}, line {number}: a value and the name of its class are expected.")
        values[int(row[0])] = row[1].strip()
    names = check_class_names(list(values.values()), path)
    if any(value > 254 for value in values):
        raise VertebraError(f"{path}: values from 0 to 254 are expected.")
    return LabelTable(names, {value: i for i, value in enumerate(values)} | {IGNORED: IGNORED})


def _of_class_dict(path: Path) -> LabelTable:
    """The columns name, r, g, b."""
    names, colours = [], []
    for number, row in enumerate(_rows(path)[1:], 2):
        if len(row) < 4 or not all(part.strip().isdigit() for part in row[1:4]):
            raise VertebraError(f"{path}, line {number}: a name, red, green and blue are expected.")
        names.append(row[0].strip())
        colours.append([int(part) for part in row[1:4]])
    return _without_void(path, names, colours)


def _of_label_colours(path: Path) -> LabelTable:
    """`red green blue name`, as CamVid has it."""
    names, colours = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if words and (len(words) < 4 or not all(word.isdigit() for word in words[:3])):
            raise VertebraError(f"{path}, line {number}: red, green, blue and a name are expected.")
        if words:
            names.append(" ".join(words[3:]))
            colours.append([int(word) for word in words[:3]])
    return _without_void(path, names, colours)


def _without_void(path: Path, names: list[str], colours: list[Any]) -> LabelTable:
    void = next(
        (i for i, name in enumerate(names) if name.lower() in ("void", "unlabelled", "unlabeled", "ignore")), None
    )
    return _made(path, names, colours, void)


def _of_ade(path: Path) -> LabelTable:
    """ADE20K's table of 150 classes; the value 0 is for pixels without a class."""
    rows = list(csv.reader(io.StringIO(read_text(path)), delimiter="\t"))[1:]
    names = [row[-1].split(",")[0].strip() for row in rows if row]
    counts: dict[str, int] = {}
    for i, name in enumerate(names):  # `door` and others stand there twice
        counts[name] = counts.get(name, 0) + 1
        names[i] = name if counts[name] == 1 else f"{name} {counts[name]}"
    return LabelTable(check_class_names(names, path), {0: IGNORED} | {i + 1: i for i in range(len(names))})


def _names(path: Path) -> LabelTable:
    return _made(path, [line.strip() for line in read_text(path).splitlines() if line.strip()], [])


def _rows(path: Path) -> list[list[str]]:
    return [row for row in csv.reader(io.StringIO(read_text(path))) if row]


_READERS = {
    "classes.json": _of_json,
    "labelmap.txt": _of_cvat,
    "_classes.csv": _of_roboflow,
    "class_dict.csv": _of_class_dict,
    "label_colors.txt": _of_label_colours,
    "objectInfo150.txt": _of_ade,
    "classes.txt": _names,
}
