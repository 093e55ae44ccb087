"""Tar shards of images and their annotations, as WebDataset lays them out: `000017.jpg` beside `000017.cls`.

Members of one key, the name up to its first dot, are of one sample: an image, and `.cls` (a class by its number or
name), `.json` (a class, tags, objects or captions, see `data/rows.py`) or `.txt` (a class by its name, or a caption).
The headers of a shard are read once; images are then read from their places in it, in any order. What the pass has
found is kept in a hidden file beside the shard.

Source: "The WebDataset Format", webdataset/webdataset on GitHub.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from vertebra.data.annotations import class_list, split_folders, split_of
from vertebra.data.catalogue import SPLIT_NAMES, Catalogue
from vertebra.data.exports import Export, ExportedImage, Invalid, mapping
from vertebra.data.formats import ReadOptions
from vertebra.data.rows import TAGS, fill, in_numeric_order
from vertebra.errors import VertebraError, escaped, first_line, shown
from vertebra.files import parse_json, read_json, replacing
from vertebra.images import SUFFIXES, ImageSlice
from vertebra.progress import track

PRIORITY = 95
FIELDS = frozenset({"label", "tags", "boxes", "labels", "masks", "keypoints", "crowd", "areas", "text"})
TITLE = "tar shards (WebDataset)"
SUFFIX = ".tar"
ANNOTATIONS = ("cls", "json", "txt")
MAPS = ("seg.png", "mask.png", "label.png", "labels.png")
"""Suffixes of the label map of an image, which `webdataset_maps` reads."""
MAX_SHARDS = 100_000
MAX_MEMBERS = 5_000_000
"""Of a shard."""
MAX_ANNOTATION = 1 << 24
"""Bytes of an annotation."""
MAX_HEADER = 1 << 20
"""Bytes of a long name, or of other extensions of a header."""
EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
"""Types of headers that extend the next one."""
MAX_CLASS = 200
"""Characters in the name of a class; longer texts are captions."""
EXAMINED = 64
"""Members of a shard by which it is recognised."""
BLOCK = 512
"""Bytes of the units of which a tar consists."""
VERSION = 2
"""Of the kept index."""


def recognise(path: Path) -> bool:
    """Whether it is a shard, a pattern of shards in braces, or a folder of shards, or has one for each split."""
    if _is_pattern(path):
        with contextlib.suppress(VertebraError):  # which `read` says
            first = shards_of(path)[0][1]
            return holds(first, ANNOTATIONS) or not holds(first, MAPS)
        return True
    return bool(shards := _in_folders(path)) and holds(next(iter(shards.values()))[0], ANNOTATIONS)


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The images of the shards; a shard or folder named after a split is of that split.

    `classes.json` beside the shards names classes that are numbers; without it they are called by their numbers.

    Raises:
        VertebraError: if a shard is missing, is no tar, or is compressed.
    """
    export = Export(path, "webdataset", options)
    members = shards_of(path)
    names = class_list(members[0][1].parent) or (class_list(path) if path.is_dir() else ())
    for split, file, index in indexes(members, export.notes):
        export.problems += [f"{file}: {escaped(sentence)}" for sentence in index.problems]
        for name, offset, size, texts in index.images:
            entry = ExportedImage(f"{file}, {escaped(name)}", ImageSlice(name, file, offset, size))
            with export.skipping(entry.where):
                fill(entry, _row(texts, options.fields == frozenset({"text"})), export, names, names)
                export.add(split, entry)
    return export.catalogue(names, labels=names or in_numeric_order(export))


def _row(annotations: dict[str, str], captions: bool) -> dict[str, Any]:
    """The annotations of an image as a row, `.txt` among them as its caption if `captions`; Invalid if there are none,
    or they cannot be used."""
    if not annotations:
        raise Invalid(f"it has no .{', .'.join(ANNOTATIONS)} of its key")
    row: dict[str, Any] = {}
    if "json" in annotations:
        try:
            content = parse_json(annotations["json"], "its JSON")
        except VertebraError as error:
            raise Invalid(str(error).removesuffix(".")) from error
        row = {"label": content} if isinstance(content, str | int) else dict(mapping(content, "JSON"))
    if "cls" in annotations:
        row["label"] = _class(annotations["cls"])
    if "txt" in annotations and (captions or "caption" in row):
        row["caption"] = annotations["txt"]
    elif "txt" in annotations and not row.keys() & {*TAGS, "objects", "bbox"}:
        row["label"] = _class(annotations["txt"])
    return row


def _class(text: str) -> int | str:
    name = text.strip()
    if not name or len(name) > MAX_CLASS or "\n" in name:
        raise Invalid(f"its class is {shown(name)}, a number or a name of one line is expected")
    return int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else name


# -- the shards of a path


def shards_of(path: Path) -> list[tuple[str, Path]]:
    """The split and the file of every shard.

    Raises:
        VertebraError: if one of a pattern is missing.
    """
    shards = _expanded(path) if _is_pattern(path) else _in_folders(path)
    return [(split, file) for split, files in shards.items() for file in files]


def indexes(members: Sequence[tuple[str, Path]], notes: list[str]) -> Iterator[tuple[str, Path, Index]]:
    """The shards, each with what its headers say, which is kept beside it; `notes` says where it could not be.

    Raises:
        VertebraError: if a shard is no tar, or is compressed.
    """
    unsaved = 0
    for split, file in track(members, "reading the headers of the shards", len(members)):
        index = _kept(file)
        if index is None:
            index = _indexed(file)
            try:
                _keep(file, index)
            except VertebraError:
                unsaved += 1
        yield split, file, index
    if unsaved:
        notes.append(f"the index of {unsaved} shards could not be kept beside them: their headers are read each time")


def _is_pattern(path: Path) -> bool:
    return path.name.endswith(SUFFIX) and "{" in str(path) and not path.exists()


def _expanded(path: Path) -> dict[str, list[Path]]:
    """The shards of a pattern by split: `{000..015}` stands for each number, `{a,b}` for each word."""
    parts: list[list[str]] = []
    count = 1
    for number, part in enumerate(re.split(r"\{([^{}]*)\}", str(path))):
        choices = [part]
        if number % 2:
            choices = part.split(",")
            if match := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", part):
                first, last = int(match[1]), int(match[2])
                numbers = range(first, min(last, first + MAX_SHARDS) + 1)
                choices = [f"{number:0{len(match[1])}}" for number in numbers]
        count *= len(choices)
        parts.append(choices)
    if not 0 < count <= MAX_SHARDS:
        raise VertebraError(f"{path} stands for {count:,} shards; braces hold {{000..015}} or {{a,b}}, up to 100,000.")
    files = [Path("".join(names)) for names in itertools.product(*parts)]
    if missing := [file for file in files if not file.is_file()]:
        raise VertebraError(f"{path}: {len(missing)} of its {count} shards are not there, the first is {missing[0]}.")
    return _by_split(files)


def _in_folders(path: Path) -> dict[str, list[Path]]:
    """The shards of a file, of a folder, or of its folders of splits, by split."""
    if path.is_file():
        return _by_split([path]) if path.suffix == SUFFIX else {}
    if not path.is_dir():
        return {}
    if files := _in_folder(path):
        return _by_split(files)
    folders = split_folders(path, lambda folder: bool(_in_folder(folder)))
    return {split: _in_folder(folder) for split, folder in folders.items()}


def _in_folder(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob(f"*{SUFFIX}") if not file.name.startswith(".") and file.is_file())


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    """Shards by the split in their names, or else of that which their folder is named after, or else train."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(split_of(file.stem) or SPLIT_NAMES.get(file.parent.name.lower(), "train"), []).append(file)
    return splits


def holds(file: Path, annotations: Collection[str]) -> bool:
    """Whether among the first members of a tar are an image and one of the annotations of its key."""
    suffixes: dict[str, set[str]] = {}
    with contextlib.suppress(OSError, tarfile.TarError, RecursionError, ValueError), file.open("rb") as stream:
        for member in itertools.islice(_members(stream, []), EXAMINED):
            key, suffix = _key(member.name)
            suffixes.setdefault(key, set()).add(suffix)
    return any(any(map(_is_image, ends)) and ends & set(annotations) for ends in suffixes.values())


# -- the index of a shard


@dataclass
class Index:
    """What the headers of a shard say."""

    images: list[tuple[str, int, int, dict[str, str]]] = field(default_factory=list)
    """Name, offset, size in bytes, and annotations by suffix."""
    maps: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """Name, offset and size of the label map of an image, by the name of the image."""
    problems: list[str] = field(default_factory=list)


class _Member(tarfile.TarInfo):
    """A member whose header takes no more memory than it needs."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in EXTENSIONS and self.size > MAX_HEADER):
            raise tarfile.HeaderError(f"the header at byte {self.offset:,} states {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def _members(stream: BinaryIO, problems: list[str]) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar, in their order; what is wrong with it goes into `problems`.

    Raises:
        tarfile.TarError: if it does not begin as a tar does.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    skipped: list[str] = []
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member, errors="replace") as archive:
        try:
            for number in itertools.count():
                member = archive.next()
                archive.members.clear()  # type: ignore[attr-defined]  # which would keep all of them
                if member is None:
                    break
                if number == MAX_MEMBERS:
                    raise VertebraError(f"{stream.name} has more than {MAX_MEMBERS:,} members: make smaller shards.")
                if member.size < 0 or member.offset_data + member.size > size:
                    problems.append(f"it is cut short in {shown(member.name)}: what comes before is used.")
                    return
                if member.isdir() or PurePosixPath(member.name).name.startswith("."):
                    continue
                if not _is_safe(member):
                    skipped.append(member.name)
                    continue
                yield member
            stream.seek(archive.offset)
            end = stream.read(BLOCK)
            if end.strip(b"\0") or len(end) < BLOCK:
                what = "damaged" if end else "cut short, for it has no end mark"
                problems.append(f"it is {what}, at byte {archive.offset:,}: what comes before is used.")
        except VertebraError:
            raise
        except (tarfile.TarError, RecursionError, ValueError) as error:
            problems.append(f"it is damaged ({first_line(error)}): what comes before is used.")
    if skipped:
        problems.append(
            f"{len(skipped)} members are skipped, {shown(skipped[0])} for one: links, devices, sparse files, and names "
            "that are absolute or hold '..'."
        )


def _is_safe(member: tarfile.TarInfo) -> bool:
    """Whether a member is a regular file in one piece, below the folder that it would be unpacked into."""
    path = PurePosixPath(member.name.replace("\\", "/"))
    return member.isreg() and not member.issparse() and not path.is_absolute() and ".." not in path.parts


def _key(name: str) -> tuple[str, str]:
    """The key of a member and its suffix, in lower case without the dot."""
    folder, slash, base = name.rpartition("/")
    key, _, suffix = base.partition(".")
    return f"{folder}{slash}{key}", suffix.lower()


def _is_image(suffix: str) -> bool:
    return f".{suffix}" in SUFFIXES


def _indexed(file: Path) -> Index:
    """Reads the headers and annotations of a shard.

    Raises:
        VertebraError: if it cannot be read, is no tar, or is compressed.
    """
    index = Index()
    images: dict[str, tuple[str, int, int]] = {}
    annotations: dict[str, dict[str, str]] = {}
    maps: dict[str, tuple[str, int, int]] = {}
    try:
        with file.open("rb") as stream:
            for member in _members(stream, index.problems):
                key, suffix = _key(member.name)
                place = (member.name, member.offset_data, member.size)
                if _is_image(suffix) and images.setdefault(key, place) != place:
                    index.problems.append(f"{member.name} is skipped: its key has another image, {images[key][0]}.")
                elif suffix in MAPS and maps.setdefault(key, place) != place:
                    index.problems.append(f"{member.name} is skipped: its key has another label map, {maps[key][0]}.")
                elif suffix in ANNOTATIONS and member.size > MAX_ANNOTATION:
                    index.problems.append(f"{member.name} is skipped: it has {member.size:,} bytes.")
                elif suffix in ANNOTATIONS:
                    stream.seek(member.offset_data)
                    try:
                        text = stream.read(member.size).decode()
                        annotations.setdefault(key, {})[suffix] = text
                    except UnicodeDecodeError:
                        index.problems.append(f"{member.name} is skipped: it is no text in UTF-8.")
    except OSError as error:
        raise VertebraError(f"{file} cannot be read ({error.strerror}).") from error
    except (tarfile.TarError, RecursionError) as error:
        raise VertebraError(
            f"{file} is no tar that can be read in any order ({first_line(error)}); unpack it if it is compressed."
        ) from error
    index.images = [(*place, annotations.get(key, {})) for key, place in images.items()]
    index.maps = {images[key][0]: place for key, place in maps.items() if key in images}
    return index


def _place(file: Path) -> Path:
    return file.with_name(f".{file.name}.index.json")


def _stamp(file: Path) -> list[int]:
    """What changes when a shard does."""
    facts = file.stat()
    return [VERSION, facts.st_size, facts.st_mtime_ns]


def _keep(file: Path, index: Index) -> None:
    """Writes the index beside its shard, whole or not at all; VertebraError if that cannot be done."""
    content = {"stamp": _stamp(file), "images": index.images, "maps": index.maps, "problems": index.problems}
    with replacing(_place(file)) as temporary:
        temporary.write_text(json.dumps(content))


def _kept(file: Path) -> Index | None:
    """The index beside a shard; None if there is none of its present content."""
    if not _place(file).is_file():
        return None
    with contextlib.suppress(VertebraError, OSError, ValueError, TypeError, KeyError, AttributeError):
        content = read_json(_place(file))
        if content["stamp"] == _stamp(file):
            return Index(
                [
                    (str(name), int(offset), int(size), {str(key): str(text) for key, text in annotations.items()})
                    for name, offset, size, annotations in content["images"]
                ],
                {
                    str(key): (str(name), int(offset), int(size))
                    for key, (name, offset, size) in content["maps"].items()
                },
                [str(sentence) for sentence in content["problems"]],
            )
    return None
