"""Folders with a mask for each object, in image files.

Three forms, each also within folders of splits (`train/`, `val/`, `test/`):

- `NAME/images/` with one image and `NAME/masks/` with one file per object, of one class;
- `images/NAME.jpg` and `masks/CLASS/NAME_1.png`, `NAME_2.png`, ..., one file per object;
- `images/NAME.jpg` and `masks/NAME.png`, an instance map: its pixels hold the number of their object, 0 for none; of
  one class.

In a file per object, every nonzero pixel belongs to it. Such a mask is read when it is needed, and its box is its
bounding box. Instance maps are read when the data is opened: the objects in them have to be counted.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from PIL import Image

from vertebra.data import segments
from vertebra.data.annotations import Annotation, Gatherer, split_folders, subfolders
from vertebra.data.catalogue import SPLIT_NAMES, SPLITS, Catalogue, Sample
from vertebra.data.copies import Copies
from vertebra.data.formats import ReadOptions
from vertebra.errors import VertebraError
from vertebra.images import SUFFIXES, image_size
from vertebra.structures import Target

PRIORITY = 60
FIELDS = frozenset({"boxes", "labels", "masks", "crowd", "areas"})
TITLE = "mask files"
NEEDS = frozenset({"masks"})
UNNAMED = "object"
"""Name of the class where nothing names it."""


def recognise(path: Path) -> bool:
    """Whether a folder, or the folders of splits in it, are of one of the three forms."""
    return path.is_dir() and (_holds(path) or bool(split_folders(path, _holds)))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """Masks in image files, in one of the three forms.

    Raises:
        VertebraError: if the folders are of none of the forms.
    """
    folders = {"train": path} if _holds(path) else split_folders(path, _holds)
    folders = {split: folders[split] for split in SPLITS if split in folders}
    gatherer = Gatherer(options.fields)
    named = {name: None for folder in folders.values() for name in _class_folders(folder)}
    classes = tuple(sorted(named)) or (UNNAMED,)
    splits = {split: _samples(folder, classes, gatherer) for split, folder in folders.items()}
    return gatherer.catalogue(path, "masks", classes, splits)


def _holds(folder: Path) -> bool:
    """Whether `images` and `masks` lie in a folder, or in a folder of it."""
    return _is_pair(folder) or any(_is_pair(below) for below in _subfolders(folder))


def _is_pair(folder: Path) -> bool:
    images = folder / "images"
    if not ((folder / "masks").is_dir() and images.is_dir()):
        return False
    # With folders of splits in both, they are label maps.
    return not any(below.name.lower() in SPLIT_NAMES for below in subfolders(images))


def _subfolders(folder: Path) -> list[Path]:
    return [below for below in subfolders(folder) if below.name.lower() not in SPLIT_NAMES]


def _class_folders(folder: Path) -> list[str]:
    masks = folder / "masks"
    return [p.name for p in masks.iterdir() if p.is_dir() and not p.name.startswith(".")] if masks.is_dir() else []


def _samples(folder: Path, classes: tuple[str, ...], gatherer: Gatherer) -> list[Sample]:
    if not _is_pair(folder):
        return _from_image_folders(folder, gatherer)
    if any(p.is_dir() for p in (folder / "images").iterdir()):
        raise VertebraError(
            f"{folder / 'images'} holds folders; images lie directly in it, and splits are folders above: "
            "train/images, train/masks, val/images, val/masks."
        )
    images: dict[str, Path] = {}
    for image in _files(folder / "images"):
        if images.setdefault(image.stem, image) != image:
            gatherer.problems.append(f"{image} is skipped: {images[image.stem].name} has the same name for masks.")
    if _class_folders(folder):
        if loose := _files(folder / "masks"):
            raise VertebraError(
                f"{folder / 'masks'} holds folders of classes and also loose files such as {loose[0].name}; "
                "it takes either masks/CLASS/NAME_1.png or masks/NAME.png."
            )
        return _from_class_folders(folder, images, classes, gatherer)
    return _from_instance_maps(folder, images, gatherer)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _from_image_folders(folder: Path, gatherer: Gatherer) -> list[Sample]:
    samples = []
    for below in _subfolders(folder):
        images = _files(below / "images") if (below / "images").is_dir() else []
        if len(images) != 1 or not (below / "masks").is_dir():
            wrong = f"{len(images)} images in images/" if len(images) != 1 else "no masks/"
            gatherer.problems.append(
                f"{below} is skipped: it has {wrong}; one image and a folder of masks are expected."
            )
            continue
        samples.append(_sample(images[0], [(mask, 0) for mask in _files(below / "masks")], gatherer))
    return samples


def _from_class_folders(
    folder: Path, images: dict[str, Path], classes: tuple[str, ...], gatherer: Gatherer
) -> list[Sample]:
    masks: dict[str, list[tuple[Path, int]]] = {name: [] for name in images}
    index = {name: i for i, name in enumerate(classes)}
    for name in sorted(_class_folders(folder)):
        for mask in _files(folder / "masks" / name):
            owner = mask.stem if mask.stem in images else mask.stem.rpartition("_")[0]
            if owner in images:
                masks[owner].append((mask, index[name]))
            else:
                gatherer.problems.append(
                    f"{mask} is skipped: no image in {folder / 'images'} is called {mask.stem!r} up to its last '_'."
                )
    return [_sample(image, masks[name], gatherer) for name, image in images.items()]


def _sample(image: Path, masks: list[tuple[Path, int]], gatherer: Gatherer) -> Sample:
    """A sample without boxes and areas, which are computed when the masks are read."""
    gatherer.has.add("masks")
    gatherer.objects += len(masks)
    labels = torch.tensor([label for _, label in masks], dtype=torch.int64)
    target = Target(labels=labels, crowd=torch.zeros(len(masks), dtype=torch.bool), path=str(image))
    if not masks:
        target.boxes, target.areas = torch.zeros(0, 4), torch.zeros(0)
    return Sample(image, target, tuple(mask for mask, _ in masks))


def _from_instance_maps(folder: Path, images: dict[str, Path], gatherer: Gatherer) -> list[Sample]:
    masks = {mask.stem: mask for mask in _files(folder / "masks")}
    if not masks.keys() & images.keys():
        raise VertebraError(
            f"no file in {folder / 'masks'} is called as an image in {folder / 'images'}; masks are masks/NAME.png "
            "with a number for each object, or masks/CLASS/NAME_1.png with a file for each."
        )
    gatherer.problems += [
        f"{masks[name]} is skipped: no image in {folder / 'images'} is called {name!r}."
        for name in sorted(masks.keys() - images.keys())
    ]
    samples = []
    for name, image in images.items():
        if name not in masks:
            gatherer.problems.append(f"{image} is skipped: {folder / 'masks'} has no file called {name!r} for it.")
            continue
        try:
            size = image_size(image)
            map_size, instances = segments.read_instance_map(masks[name])
        except VertebraError as error:
            gatherer.problems.append(f"{str(error).removesuffix('.')}; {image} is skipped.")
            continue
        if map_size != size:
            gatherer.problems.append(
                f"{image} is skipped: its masks are {map_size[0]} x {map_size[1]} pixels, it is {size[0]} x {size[1]} "
                "(height x width)."
            )
            continue
        annotations = [
            Annotation(f"{masks[name]}, object {x.number}", 0, x.box, x.segment, area=x.area, id=x.number)
            for x in instances
        ]
        gatherer.has.add("masks")
        samples.append(gatherer.sample(image, size, annotations))
    return samples


def write(catalogue: Catalogue, folder: Path) -> list[str]:
    """Writes `SPLIT/images/` and `SPLIT/masks/CLASS/NAME_1.png`, white on black.

    Returns:
        What folders of masks cannot hold and the data has.

    Raises:
        VertebraError: if a class cannot be the name of a folder.
    """
    for name in catalogue.classes:
        if "/" in name or "\\" in name or name.startswith(".") or not name:
            raise VertebraError(f"class {name!r} cannot be the name of a folder of masks; rename it in the data.")
    crowds = empty = 0
    for split, samples in catalogue.splits.items():
        for name in catalogue.classes:
            (folder / split / "masks" / name).mkdir(parents=True, exist_ok=True)
        copies = Copies(folder / split / "images", stems=True)
        stems = [copies.add(sample.image).stem for sample in samples]
        taken = set(stems)
        for sample, stem in zip(samples, stems, strict=True):
            target = sample.target
            assert target.labels is not None
            assert target.size is not None
            for i, (segment, label) in enumerate(zip(sample.segments, target.labels.tolist(), strict=True), 1):
                if target.crowd is not None and target.crowd[i - 1]:
                    crowds += 1
                    continue
                mask = segments.decode(segment, target.size, target.path)
                if not mask.any():
                    empty += 1
                    continue
                # A mask with the name of another image would be read as that one's.
                number = next(n for n in itertools.count(i, len(target.labels)) if f"{stem}_{n}" not in taken)
                pixels = Image.fromarray(mask.numpy())
                pixels.save(folder / split / "masks" / catalogue.classes[label] / f"{stem}_{number}.png")
    lost = [f"{crowds} crowd regions"] if crowds else []
    lost += [f"{empty} objects without a pixel in their mask"] if empty else []
    lost += ["keypoints"] if "keypoints" in catalogue.has else []
    return lost + (["boxes other than around the masks", "ids"] if catalogue.format == "coco" else [])
