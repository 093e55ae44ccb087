"""Tar shards of images and their label maps: `000017.jpg` beside `000017.seg.png`; see `webdataset`.

The classes are named by a file beside the shards, as of `label_maps`: `classes.json` or another one.
"""

from __future__ import annotations

from pathlib import Path

from vertebra.data.annotations import first_problem
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.formats import ReadOptions, webdataset
from vertebra.data.formats.label_maps import table_in
from vertebra.data.label_maps import LabelMap
from vertebra.errors import VertebraError, escaped
from vertebra.images import ImageSlice
from vertebra.structures import Target

PRIORITY = 96
FIELDS = frozenset({"semantic"})
TITLE = "tar shards of label maps (WebDataset)"


def recognise(path: Path) -> bool:
    """Whether it is a shard, a pattern of shards in braces, or a folder of shards, whose images have label maps."""
    try:
        shards = webdataset.shards_of(path)
    except VertebraError:  # which `webdataset` says
        return False
    return bool(shards) and webdataset.holds(shards[0][1], webdataset.MAPS)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images of the shards that have a label map; splits are as in `webdataset`.

    Raises:
        VertebraError: if no file names the classes, a shard is missing, is no tar, or is compressed.
    """
    members = webdataset.shards_of(path)
    table = table_in(list(dict.fromkeys((members[0][1].parent, *([path] if path.is_dir() else ())))))
    if table is None:
        raise VertebraError(
            f"{path}: nothing names the classes of the label maps; write a classes.json beside the shards, "
            '{"names": ["road", "sky", ...], "ignore_index": 255}, in the order of the values.'
        )
    splits: dict[str, list[Sample]] = {}
    notes: list[str] = []
    problems: list[str] = []
    for split, file, index in webdataset.indexes(members, notes):
        problems += [f"{file}: {escaped(sentence)}" for sentence in index.problems]
        for name, offset, size, _ in index.images:
            if name not in index.maps:
                problems.append(
                    f"{file}, {escaped(name)} is skipped: it has no .{', .'.join(webdataset.MAPS)} of its key."
                )
                continue
            image = ImageSlice(name, file, offset, size)
            map_name, start, length = index.maps[name]
            label_map = LabelMap(ImageSlice(map_name, file, start, length), table)
            target = Target(path=str(file / name))
            splits.setdefault(split, []).append(Sample(image, target, label_map=label_map))
    if not splits:
        raise VertebraError(f"{path} has no image with a label map.{first_problem(problems)}")
    return Catalogue(str(path), "webdataset_maps", table.classes, splits, notes, problems, FIELDS)
