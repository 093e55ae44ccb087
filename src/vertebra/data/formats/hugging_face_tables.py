"""Hugging Face's data sets as tables: folders of Arrow files that `save_to_disk` has written, and Parquet files.

A row has `image`, a structure of `bytes` and `path`, and `label`, `tags`, `caption`, or `objects` with `bbox` and
`category`, see `data/rows.py`. Of an Arrow file, images are read from their places in it; of a Parquet file, from the
row group that they are compressed with.

Source: Hugging Face's documentation of Datasets, "Load" and "Dataset features".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vertebra.data.annotations import split_folders, split_of
from vertebra.data.catalogue import SPLIT_NAMES, Catalogue
from vertebra.data.exports import Export, ExportedImage, text
from vertebra.data.formats import ReadOptions
from vertebra.data.rows import CAPTIONS, CATEGORIES, TAGS, fill, in_numeric_order
from vertebra.errors import VertebraError, escaped, first_line, shown
from vertebra.files import read_json
from vertebra.images import ImageSlice, PackedImage, StoredImage, UnreadableImage
from vertebra.progress import track

PRIORITY = 94
FIELDS = frozenset({"label", "tags", "boxes", "labels", "masks", "keypoints", "crowd", "areas", "text"})
TITLE = "Hugging Face tables (Arrow, Parquet)"
ARROW, PARQUET = ".arrow", ".parquet"
PLACES = ("", "data")
"""Folders of a dataset in which Parquet files lie."""
IMAGES = ("image", "img", "pixel_values", "jpg", "png")
"""Names of the column of images; the first that is there."""
MAX_GROUP = 1 << 30
"""Bytes of a row group of a Parquet file, which is read as a whole."""


def recognise(path: Path) -> bool:
    """Whether it is such a file, a folder with such files, or one with a folder of them for each split."""
    return bool(_files(path))


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The rows of the files; the names of classes are those of the data set's features.

    Raises:
        VertebraError: if pyarrow is not installed, a file is damaged, or has no column of images.
    """
    arrow = _pyarrow()
    export = Export(path, "hugging_face_tables", options)
    files = [(split, file) for split, files in _files(path).items() for file in files]
    labels: dict[str, None] = {}
    categories: dict[str, None] = {}
    for split, file in track(files, "reading the tables", len(files)):
        try:
            table = _Table.of(arrow, file)
            names, object_names = table.names(TAGS), table.names(CATEGORIES, within="objects")
            for i, (image, row) in enumerate(table.rows()):
                where = f"{file}, row {i + 1}"
                with export.skipping(where):
                    entry = ExportedImage(where, image or export.images(file, split)(text(row.get("path"), "image")))
                    fill(entry, row, export, names, object_names)
                    export.add(split, entry)
        except (arrow.ArrowException, OSError) as error:
            raise VertebraError(f"{file} is damaged or cannot be read ({first_line(error)}).") from error
        labels |= dict.fromkeys(names)
        categories |= dict.fromkeys(object_names)
    return export.catalogue(list(categories), labels=list(labels) or in_numeric_order(export))


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise VertebraError(
            "Arrow and Parquet files are read with pyarrow, which is not installed: pip install vertebra[arrow]"
        ) from error
    return pyarrow


# -- the files of a path


def _files(path: Path) -> dict[str, list[Path]]:
    """The files by split: one, those of a folder, or of its folders of splits."""
    if path.is_file():
        return {split_of(path.stem) or "train": [path]} if path.suffix in (ARROW, PARQUET) else {}
    if not path.is_dir():
        return {}
    for folder in (path / place for place in PLACES):
        if files := _in_folder(folder):
            splits: dict[str, list[Path]] = {}
            for file in files:
                splits.setdefault(split_of(file.stem) or SPLIT_NAMES.get(path.name.lower(), "train"), []).append(file)
            return splits
    folders = split_folders(path, lambda folder: bool(_in_folder(folder)))
    return {split: _in_folder(folder) for split, folder in folders.items()}


def _in_folder(folder: Path) -> list[Path]:
    """The files of a folder, in the order in which the data set lists them."""
    if not folder.is_dir():
        return []
    if (folder / "state.json").is_file():  # beside files that are caches of `map`
        content = read_json(folder / "state.json")
        listed = content.get("_data_files") if isinstance(content, dict) else None
        entries = listed if isinstance(listed, list) else []
        names = [entry.get("filename") for entry in entries if isinstance(entry, dict)]
        return [folder / Path(name).name for name in names if isinstance(name, str) and name.endswith(ARROW)]
    return sorted(file for file in folder.glob(f"*{PARQUET}") if not file.name.startswith("."))


# -- tables


@dataclass(frozen=True, slots=True)
class ParquetImage(PackedImage):
    """An encoded image of a Parquet file."""

    column: str
    group: int
    """The row group."""
    row: int
    """The row in it."""

    def read(self) -> bytes:
        try:
            content = _group(self.file, self.column, self.group)[self.row].as_py()
        except Exception as error:  # a damaged file can raise anything
            raise UnreadableImage(f"{self}: cannot be read ({first_line(error)}).") from error
        if not content:
            raise UnreadableImage(f"{self}: it has no bytes.")
        return bytes(content)


@lru_cache(maxsize=2)
def _group(file: Path, column: str, group: int) -> Any:
    """The encoded images of a row group."""
    arrow = _pyarrow()
    table = arrow.parquet.ParquetFile(file).read_row_group(group, columns=[column], use_threads=False)
    images = table.column(0).combine_chunks()
    return images.field("bytes") if arrow.types.is_struct(images.type) else images


class _Table:
    """One file."""

    def __init__(self, arrow: ModuleType, file: Path, schema: Any) -> None:
        self.arrow, self.file, self.schema = arrow, file, schema
        names = [name for name in IMAGES if name in schema.names and self._holds_images(schema.field(name).type)]
        if not names:
            columns = ", ".join(schema.names)
            raise VertebraError(f"{file} has no column of images ({IMAGES[0]}: bytes and path), but {shown(columns)}.")
        self.column = names[0]
        self.others = [name for name in schema.names if name in (*TAGS, *CATEGORIES, *CAPTIONS, "objects", "bbox")]

    @staticmethod
    def of(arrow: ModuleType, file: Path) -> _Table:
        if not file.is_file():
            raise VertebraError(f"{file} is not there.")
        return (_ArrowTable if file.suffix == ARROW else _ParquetTable)(arrow, file)

    def _holds_images(self, kind: Any) -> bool:
        types = self.arrow.types
        if types.is_struct(kind):
            return "bytes" in {kind.field(i).name for i in range(kind.num_fields)}
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def names(self, columns: tuple[str, ...], within: str | None = None) -> list[str]:
        """The names of the classes in the first of the columns that has any."""
        try:
            features = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
            names = _class_names(features.get(within, {}) if within else features, columns)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return []
        return [name for name in names if isinstance(name, str)]

    def rows(self) -> Iterator[tuple[StoredImage | None, dict[str, Any]]]:
        """Each image, None if it is a file of its own, whose path is then in the row, and the row without it."""
        raise NotImplementedError


def _class_names(features: Any, columns: tuple[str, ...]) -> list[Any]:
    """The names of a ClassLabel among features, which may be in lists or structures."""
    if isinstance(features, list):
        return next(filter(None, (_class_names(part, columns) for part in features)), [])
    if not isinstance(features, dict):
        return []
    for column in columns:
        part = features.get(column)
        while isinstance(part, list | dict) and "names" not in part:
            part = part[0] if isinstance(part, list) and part else part.get("feature") if isinstance(part, dict) else 0
        if isinstance(part, dict) and part.get("_type") == "ClassLabel" and isinstance(part["names"], list):
            return part["names"]
    return _class_names(features.get("feature"), columns)


class _ArrowTable(_Table):
    """An Arrow file, in the stream format that `save_to_disk` writes; its images lie in it as they are."""

    def __init__(self, arrow: ModuleType, file: Path) -> None:
        self.mapped = arrow.memory_map(str(file))
        whole = self.mapped.read_buffer()
        self.begin, self.end = whole.address, whole.address + whole.size
        self.mapped.seek(0)
        self.batches = arrow.ipc.open_stream(self.mapped)
        super().__init__(arrow, file, self.batches.schema)

    def rows(self) -> Iterator[tuple[StoredImage | None, dict[str, Any]]]:
        count = 0
        for batch in self.batches:
            batch.validate(full=True)  # its offsets are followed
            images = batch.column(self.column)
            paths = None
            if self.arrow.types.is_struct(images.type):
                paths = images.field("path") if images.type.get_field_index("path") >= 0 else None
                images = images.field("bytes")
            places = self._places(images)
            rows = batch.select(self.others).to_pylist()
            for i, row in enumerate(rows):
                count += 1
                path = None if paths is None else paths[i].as_py()
                if not images[i].is_valid:
                    yield None, row | {"path": path}
                    continue
                name = escaped(Path(path).name) if path else f"row {count}"
                offset, size = places[i]
                yield ImageSlice(name, self.file, offset, size), row

    def _places(self, images: Any) -> list[tuple[int, int]]:
        """Offset in the file and size of each binary value."""
        _, offsets, data = images.buffers()
        if data is None:  # all are missing
            return []
        if not self.begin <= data.address <= data.address + data.size <= self.end:
            raise VertebraError(
                f"{self.file} is compressed, so its images have no place in it: write it with save_to_disk, or as "
                "Parquet."
            )
        wide = np.int64 if self.arrow.types.is_large_binary(images.type) else np.int32
        ends = np.frombuffer(offsets, wide)[images.offset : images.offset + len(images) + 1].astype(np.int64)
        starts = ends[:-1] + (data.address - self.begin)
        return list(zip(starts.tolist(), np.diff(ends).tolist(), strict=True))


class _ParquetTable(_Table):
    """A Parquet file; its images are compressed by row groups."""

    def __init__(self, arrow: ModuleType, file: Path) -> None:
        self.parquet = arrow.parquet.ParquetFile(file)
        super().__init__(arrow, file, self.parquet.schema_arrow)

    def rows(self) -> Iterator[tuple[StoredImage | None, dict[str, Any]]]:
        count = 0
        for group in range(self.parquet.num_row_groups):
            facts = self.parquet.metadata.row_group(group)
            if facts.total_byte_size > MAX_GROUP:
                raise VertebraError(
                    f"{self.file}: row group {group} has {facts.total_byte_size:,} bytes, which are read for each of "
                    "its images: write the file with row groups of about 100 rows."
                )
            rows = self.parquet.read_row_group(group, columns=self.others, use_threads=False).to_pylist()
            for i in range(facts.num_rows):
                count += 1
                image = ParquetImage(f"row {count}", self.file, self.column, group, i)
                yield image, rows[i] if rows else {}
