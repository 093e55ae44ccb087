"""Predictions on tables of images, for engines of big data: a callable for Ray Data, an iterator for Spark."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vertebra.predict.predictor import Predictor
from vertebra.predict.result import ImageResult
from vertebra.predict.sources import EncodedImage

if TYPE_CHECKING:
    import pandas
    import pyarrow

SPARK_SCHEMA = "path string, prediction string, maps array<struct<name: string, png: binary>>, error string"
"""Of the rows of a TablePredictor, in Spark's form."""


def schema() -> pyarrow.Schema:
    """Of the rows of a TablePredictor."""
    import pyarrow as pa

    maps = pa.list_(pa.struct([("name", pa.string()), ("png", pa.binary())]))
    return pa.schema([("path", pa.string()), ("prediction", pa.string()), ("maps", maps), ("error", pa.string())])


class TablePredictor:
    """A checkpoint that predicts on tables of images, exactly one row for each.

    It holds no model until its first call, so that it can be sent to other processes.

    A row has `path`; `prediction`, JSON as `ImageResult.to_dict` has it; `maps`, the label or saliency maps by name as
    PNG files, where the model predicts such; and `error`: empty, or why the image cannot be read, where `prediction` is
    empty.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        load: Mapping[str, Any] | None = None,
        stream: Mapping[str, Any] | None = None,
        top: int = 5,
    ) -> None:
        """
        Args:
            checkpoint: as for `vertebra.load`.
            load: further arguments of `vertebra.load`.
            stream: arguments of `Predictor.stream`, such as `threshold` and `batch_size`.
            top: classes of each image, of kinds that rank classes.
        """
        self.checkpoint, self.load, self.stream, self.top = checkpoint, dict(load or {}), dict(stream or {}), top

    @cached_property
    def predictor(self) -> Predictor:
        """The model, which is loaded when it is first needed."""
        return Predictor(self.checkpoint, **self.load)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "predictor"}

    def rows(self, paths: Sequence[str], images: Sequence[bytes | None], errors: Iterable[str] = ()) -> list[dict]:
        """The rows of images.

        Args:
            paths: what each is called.
            images: the bytes of each one's file; None where it could not be read.
            errors: why it could not; empty for others.
        """
        problems = list(errors) or [""] * len(paths)
        given = [
            EncodedImage(path, bytes(image))
            for path, image, problem in zip(paths, images, problems, strict=True)
            if image is not None and not problem
        ]
        results = self.predictor.stream(given, **self.stream)
        rows = []
        for path, image, problem in zip(paths, images, problems, strict=True):
            if problem or image is None:
                rows.append(_row(path, error=problem or f"{path}: there are no bytes."))
                continue
            result = next(results)
            rows.append(self._predicted(path, result) if isinstance(result, ImageResult) else _row(path, str(result)))
        return rows

    def _predicted(self, path: str, result: ImageResult) -> dict[str, Any]:
        maps = []
        for name, image in self.predictor.kind.map_images(result, self.predictor.classes).items():
            file = io.BytesIO()
            image.save(file, "png")
            maps.append({"name": name, "png": file.getvalue()})
        return _row(path, prediction=json.dumps(result.to_dict(top=self.top)), maps=maps)

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """For Ray Data's `map_batches` with `batch_format="pyarrow"`: a table with columns `path`, `bytes` and, if some
        could not be read, `error`, to a table with a row for each, as `schema` has it."""
        import pyarrow as pa

        columns = table.to_pydict()
        rows = self.rows(columns["path"], columns["bytes"], columns.get("error", ()))
        return pa.Table.from_pylist(rows, schema())

    def frames(self, frames: Iterable[pandas.DataFrame]) -> Iterator[pandas.DataFrame]:
        """For Spark's `mapInPandas` with SPARK_SCHEMA: frames with columns `path` and `bytes`, or `content` as Spark's
        reader of binary files calls them, to frames with a row for each."""
        import pandas

        for frame in frames:
            images = frame["content" if "content" in frame else "bytes"]
            yield pandas.DataFrame(self.rows(list(frame["path"]), list(images)), columns=list(_row("")))


def _row(path: str, error: str = "", prediction: str = "", maps: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    return {"path": path, "prediction": prediction, "maps": list(maps), "error": error}
