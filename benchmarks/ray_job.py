"""A big batch job on a Ray of this machine, with two workers of which one is killed midway: each image has one row.

    python benchmarks/ray_job.py best.safetensors --images 1000

The images are drawn: files, a tar archive and a Parquet table; one file is broken.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from vertebra.data.formats import shapes
from vertebra.predict import jobs
from vertebra.predict.tables import TablePredictor
from vertebra.viz import draw


class Mortal(TablePredictor):
    """One of its processes dies in the middle of its third table."""

    calls = 0

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = super().__call__(table)
        self.calls += 1
        if self.calls == 3:
            try:
                os.close(os.open(os.environ["DEATH"], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return rows
            os.kill(os.getpid(), signal.SIGKILL)
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    jobs.TablePredictor = Mortal  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = write(folder / "source", options.images)
        os.environ["DEATH"] = str(folder / "died")
        start = time.perf_counter()
        arguments: dict[str, Any] = {"workers": 2, "load": {"device": "cpu"}, "stream": {"batch_size": 16}}
        output = str(folder / "output")
        summary = jobs.run(str(Path(options.checkpoint).resolve()), [str(folder / "source")], output, **arguments)
        seconds = time.perf_counter() - start
        assert (folder / "died").exists(), "no worker was killed: there were too few images"
        keys = [
            row["path"]
            for table in jobs.TABLES
            for part in (folder / "output" / table).glob("*.parquet")
            for row in parquet.read_table(part, columns=["path"]).to_pylist()
        ]
        assert sorted(keys) == sorted(expected), (len(keys), len(set(keys)), len(expected))
        print(f"{summary}; {seconds:.0f} s; one worker was killed, and each of {len(keys)} images has one row")


def write(source: Path, count: int) -> list[str]:
    """Draws the images; returns their keys."""
    source.mkdir()
    files, keys = [], []
    for number in range(count):
        buffer = io.BytesIO()
        draw.to_image(shapes.draw(0, number, 64, (1, 3))[0]).save(buffer, "png")
        files.append(buffer.getvalue())
    third = count // 3
    for number, content in enumerate(files[:third]):
        path = source / f"{number}.png"
        path.write_bytes(content if number else b"no image")
        keys.append(str(path))
    with tarfile.open(source / "shard.tar", "w") as archive:
        for number, content in enumerate(files[third : 2 * third]):
            entry = tarfile.TarInfo(f"{number}.png")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
            keys.append(f"{source / 'shard.tar'}#{number}.png")
    parquet.write_table(pa.table({"bytes": files[2 * third :]}), source / "table.parquet")
    return keys + [f"{source / 'table.parquet'}#{number}" for number in range(count - 2 * third)]


if __name__ == "__main__":
    main()
