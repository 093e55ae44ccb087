"""Where the images of a big job are: folders of images, tar shards and Parquet tables, on any file system of fsspec."""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vertebra.errors import VertebraError, first_line
from vertebra.images import SUFFIXES

if TYPE_CHECKING:
    import pyarrow

FILES_PER_SHARD = 64
"""Image files that are read by one task."""
ROWS_PER_TABLE = 64
"""Images of a shard that are passed on together."""
ARCHIVES = (".tar", ".parquet")
MAX_IMAGE_BYTES = 512 << 20
"""Of the file of an image."""


@dataclass
class Shard:
    """A part of the images: image files, or all of a tar archive or a Parquet table."""

    urls: list[str]
    """Of the image files, or of the one archive or table."""
    done: list[str]
    """Keys of its images that are not to be read again."""


def is_archive(shard: Shard) -> bool:
    """Whether it holds an unknown number of images."""
    return shard.urls[0].lower().endswith(ARCHIVES)


def find(source: str, done: Collection[str] = (), below: str = "") -> list[Shard]:
    """The shards of a folder, a pattern or a file, without image files that are done.

    Args:
        source: a path or URL that fsspec reads.
        below: a folder that is passed over: that of the results.
        done: keys of images that were answered before: the path of an image file; `ARCHIVE#MEMBER`; `TABLE#ROW`.

    Raises:
        VertebraError: if nothing can be read there.
    """
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(source)
        pattern = any(sign in root for sign in "*?[") and not files.exists(root)
        names = files.glob(root) if pattern else files.find(root)
        missing = not pattern and not names and not files.exists(root)
    except Exception as error:  # each file system raises its own
        raise VertebraError(f"{source} cannot be read: {first_line(error)}") from error
    if missing:
        raise VertebraError(f"{source} does not exist.")
    names = sorted(name for name in names if not (below and name.startswith(f"{below}/")))
    urls = names if "file" in _protocols(files) else list(map(files.unstrip_protocol, names))
    images = [url for url in urls if url.lower().endswith(tuple(SUFFIXES))]
    finished = set(done)
    left = [url for url in images if url not in finished]
    shards = [Shard(left[i : i + FILES_PER_SHARD], []) for i in range(0, len(left), FILES_PER_SHARD)]
    archives = [url for url in urls if url.lower().endswith(ARCHIVES)]
    members: dict[str, list[str]] = {url: [] for url in archives}
    for key in done:
        for place in (match.start() for match in re.finditer("#", key)):  # names of archives and members may have it
            if key[:place] in members:
                members[key[:place]].append(key)
    if not images and not archives:
        raise VertebraError(f"{source} holds no images ({', '.join(SUFFIXES)}), .tar or .parquet files.")
    return shards + [Shard([url], members[url]) for url in archives if url not in finished]


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def read(table: pyarrow.Table) -> Iterator[pyarrow.Table]:
    """For Ray Data's `map_batches`: shards, a column for each field, to tables of their images with columns `path`,
    `bytes` and `error`."""
    import pyarrow as pa

    form = pa.schema([("path", pa.string()), ("bytes", pa.large_binary()), ("error", pa.string())])
    for entry in table.to_pylist():
        waiting = []
        for row in images(Shard(**entry)):
            waiting.append(row)
            if len(waiting) == ROWS_PER_TABLE:
                yield pa.Table.from_pylist(waiting, form)
                waiting = []
        if waiting:
            yield pa.Table.from_pylist(waiting, form)


def columns(shards: list[Shard]) -> list[dict[str, Any]]:
    """Shards as rows of a table."""
    return [asdict(shard) for shard in shards]


def images(shard: Shard) -> Iterator[dict[str, Any]]:
    """The images of a shard that are not done: `path`, their key, and `bytes`; or `error`, why there are none."""
    if shard.urls[0].lower().endswith(".tar"):
        yield from _members(shard.urls[0], set(shard.done))
    elif shard.urls[0].lower().endswith(".parquet"):
        yield from _rows(shard.urls[0], set(shard.done))
    else:
        for url in shard.urls:
            yield _file(url)


def _file(url: str) -> dict[str, Any]:
    import fsspec

    try:
        with fsspec.open(url) as file:
            return _image(url, file.read(MAX_IMAGE_BYTES + 1))
    except Exception as error:  # each file system raises its own
        return _problem(url, error)


def _members(url: str, done: Collection[str]) -> Iterator[dict[str, Any]]:
    """The image files in a tar archive, which is read from front to end. Further ones of one name are numbered."""
    import fsspec

    counts: Counter[str] = Counter()
    try:
        with fsspec.open(url) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                counts[member.name] += 1
                number = f"#{counts[member.name]}" if counts[member.name] > 1 else ""
                key = f"{url}#{member.name}{number}"
                if member.isfile() and member.name.lower().endswith(tuple(SUFFIXES)) and key not in done:
                    content = archive.extractfile(member)
                    assert content is not None  # of a file
                    yield _image(key, content.read(MAX_IMAGE_BYTES + 1))
    except Exception as error:  # damage; what came before it counts
        yield _problem(url, error)


def _rows(url: str, done: Collection[str]) -> Iterator[dict[str, Any]]:
    """The images in the binary column of a Parquet table."""
    import fsspec
    import pyarrow.parquet

    try:
        with fsspec.open(url) as file:
            table = pyarrow.parquet.ParquetFile(file)
            column = _column(url, table.schema_arrow)
            number = 0
            for batch in table.iter_batches(batch_size=ROWS_PER_TABLE, columns=[column]):
                for value in batch.column(0).to_pylist():
                    key = f"{url}#{number}"
                    number += 1
                    if key not in done:
                        yield _image(key, value.get("bytes") if isinstance(value, dict) else value)
    except VertebraError:
        raise
    except Exception as error:  # damage; what came before it counts
        yield _problem(url, error)


def _column(url: str, schema: pyarrow.Schema) -> str:
    """The name of the column with the images: the bytes of their files, or a struct with a field `bytes`."""
    import pyarrow as pa

    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    names = [field.name for field in schema if holds_bytes(field.type)]
    if len(names) != 1:
        what = f"columns {', '.join(names)} of bytes" if names else f"none in {', '.join(schema.names)}"
        raise VertebraError(f"{url} must have one column with the bytes of images; it has {what}.")
    return names[0]


def _image(key: str, content: bytes | None) -> dict[str, Any]:
    if content is None:
        return {"path": key, "bytes": None, "error": f"{key}: there are no bytes."}
    if len(content) > MAX_IMAGE_BYTES:
        return {"path": key, "bytes": None, "error": f"{key}: the file has more than {MAX_IMAGE_BYTES:,} bytes."}
    return {"path": key, "bytes": content, "error": ""}


def _problem(key: str, error: Exception) -> dict[str, Any]:
    return {"path": key, "bytes": None, "error": f"{key} cannot be read: {first_line(error)}"}
