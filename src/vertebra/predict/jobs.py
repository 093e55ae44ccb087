"""Big batch jobs: the images of a source to a folder of Parquet tables, on the processes of a Ray cluster.

A job that was ended at any moment goes on where it was: images whose rows are written are not predicted on again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from vertebra.errors import VertebraError, first_line
from vertebra.export import is_exported
from vertebra.files import expanded
from vertebra.predict import shards
from vertebra.predict.tables import TablePredictor, schema
from vertebra.progress import track
from vertebra.weights.locate import locate

if TYPE_CHECKING:
    import pyarrow

PART_ROWS = 1000
"""Rows of a table that is written, at most."""
PART_SECONDS = 60
"""After which rows are written even if there are fewer; so much work is lost at most where a job is killed."""
TABLES = ("predictions", "errors")
"""Folders of the output."""
PACKAGES = ("ray", "pyarrow", "fsspec")


@dataclass
class Summary:
    """What a job has done."""

    predicted: int = 0
    unreadable: int = 0
    before: int = 0
    """Images whose rows were there."""


class Output:
    """A folder of Parquet tables: in `predictions` the rows of a TablePredictor, in `errors` the images that cannot be
    read; each with exactly one row per image."""

    def __init__(self, folder: str, job: Mapping[str, Any]) -> None:
        """
        Args:
            folder: a path or URL that fsspec writes to.
            job: what the rows depend on besides the images.

        Raises:
            VertebraError: if the folder cannot be written to, or holds the rows of another job.
        """
        import fsspec

        self.name = folder
        try:
            self.files, self.root = fsspec.core.url_to_fs(folder)
            for table in TABLES:
                self.files.makedirs(f"{self.root}/{table}", exist_ok=True)
            about, text = f"{self.root}/job.json", json.dumps(job, indent=1)
            if not self.files.exists(about):
                self._write(about, text.encode())
            elif self.files.cat_file(about).decode() != text:
                raise VertebraError(
                    f"{folder} holds the predictions of another model or other options: choose another."
                )
            self.parts = [path for table in TABLES for path in self.files.glob(f"{self.root}/{table}/*.parquet")]
        except VertebraError:
            raise
        except Exception as error:  # each file system raises its own
            raise VertebraError(f"{folder} cannot be written to: {first_line(error)}") from error
        numbers = [PurePosixPath(part).stem.rpartition("-")[2] for part in self.parts]
        self.number = 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)
        """Of the next table."""
        self.waiting: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
        self.written = time.monotonic()

    def paths(self) -> Iterator[str]:
        """The keys of all images whose rows are there.

        Raises:
            VertebraError: if a table is damaged.
        """
        import pyarrow.parquet

        for part in self.parts:
            try:
                with self.files.open(part) as file:
                    yield from pyarrow.parquet.read_table(file, columns=["path"]).column("path").to_pylist()
            except Exception as error:
                raise VertebraError(f"{part} is damaged: {first_line(error)}; remove it to go on.") from error

    def add(self, row: dict[str, Any]) -> None:
        self.waiting["errors" if row["error"] else "predictions"].append(row)
        late = time.monotonic() - self.written > PART_SECONDS
        if late or any(len(rows) == PART_ROWS for rows in self.waiting.values()):
            self.flush()

    def flush(self) -> None:
        """Writes what waits, as a table each that is whole or absent."""
        import pyarrow as pa
        import pyarrow.parquet

        for table, rows in self.waiting.items():
            if not rows:
                continue
            names = ["path", "error"] if table == "errors" else ["path", "prediction", "maps"]
            buffer = io.BytesIO()
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema()).select(names), buffer)
            self._write(f"{self.root}/{table}/part-{self.number:06}.parquet", buffer.getvalue())
            self.number += 1
            rows.clear()
        self.written = time.monotonic()

    def _write(self, path: str, content: bytes) -> None:
        self.files.pipe_file(f"{path}.tmp", content)
        self.files.mv(f"{path}.tmp", path)


def run(
    checkpoint: str,
    sources: Sequence[str],
    output: str,
    *,
    workers: int | None = None,
    load: Mapping[str, Any] | None = None,
    stream: Mapping[str, Any] | None = None,
    top: int = 5,
) -> Summary:
    """Predicts on all images of the sources, by a pool of processes of Ray, and writes exactly one row for each.

    A process that dies is replaced, and its images are predicted on again.

    Args:
        checkpoint: as for `vertebra.load`; each machine of the cluster must find it there.
        sources: paths or URLs of image files, folders, `.tar` archives and `.parquet` tables.
        output: folder for the tables, a path or URL.
        workers: processes with a model each; one per GPU of the cluster, else one per CPU, if None.
        load, stream, top: as for `TablePredictor`.

    Raises:
        VertebraError: if a package is not installed, a source or the output is not usable, or the model cannot predict.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise VertebraError(f"a batch job needs {package}, which is not installed: pip install 'vertebra[ray]'")
    predictor = TablePredictor(checkpoint, load=load, stream=stream, top=top)
    predictor.predictor.stream([], **predictor.stream)  # checks the options before anything is started
    folder = Output(output, _job(predictor))
    seen = set(folder.paths())
    summary = Summary(before=len(seen))
    parts = [shard for source in sources for shard in shards.find(source, seen, below=folder.root)]
    total = sum(len(shard.urls) for shard in parts) if not any(shards.is_archive(shard) for shard in parts) else None
    try:
        rows = (row for table in _results(parts, predictor, workers) for row in table.to_pylist())
        for row in track(rows, "predicting", total):
            if row["path"] not in seen:
                seen.add(row["path"])
                folder.add(row)
                summary.unreadable += bool(row["error"])
                summary.predicted += not row["error"]
    finally:
        folder.flush()
    return summary


def _job(predictor: TablePredictor) -> dict[str, Any]:
    """What the rows depend on besides the images."""
    path = expanded(predictor.checkpoint) if is_exported(predictor.checkpoint) else locate(predictor.checkpoint)
    with path.open("rb") as file:
        model = hashlib.file_digest(file, "sha256").hexdigest()
    load = {name: value for name, value in predictor.load.items() if name != "device"}
    return {"model": model, "load": load, "stream": predictor.stream, "top": predictor.top}


def _results(parts: list[shards.Shard], predictor: TablePredictor, workers: int | None) -> Iterator[pyarrow.Table]:
    """The rows of all images, in any order, and where a process was replaced perhaps several for an image."""
    if not parts:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports its use over the network
    import ray

    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # no class of its own
            raise VertebraError(f"Ray does not start: {first_line(error)}") from error
    resources = ray.cluster_resources()
    gpus = 0 if predictor.load.get("device") == "cpu" else int(resources.get("GPU", 0))
    workers = workers or gpus or max(1, int(resources.get("CPU", 1)))
    ray.data.DataContext.get_current().enable_progress_bars = False  # there is one here
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # else it tells every step
    dataset: Any = ray.data.from_items(shards.columns(parts), override_num_blocks=min(len(parts), 100 * workers))
    # Reading takes no CPU, so that it can go on where the models take them all.
    dataset = dataset.map_batches(
        shards.read,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(size=2 * workers),
    )
    dataset = dataset.map_batches(
        TablePredictor,
        fn_constructor_args=(predictor.checkpoint,),
        fn_constructor_kwargs={"load": predictor.load, "stream": predictor.stream, "top": predictor.top},
        batch_size=shards.ROWS_PER_TABLE,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if gpus else None,
    )
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


def _cause(error: BaseException) -> VertebraError:
    """The user's mistake that has ended a process of Ray, or what Ray says."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, VertebraError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return VertebraError(f"Ray has failed: {first_line(error)}")
