"""Predictions in files: the writer that kinds share, and the contract of others."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vertebra.files import replacing
from vertebra.structures import Prediction


class Writer(Protocol):
    """Writes predictions one by one. A context manager: the files are there, complete, if it exits without an error."""

    files: tuple[str, ...]
    """Names of the files."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> bool | None: ...

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        """Writes the prediction for an image.

        Args:
            prediction: its path names the image.
            number: id of the image where the prediction has none.
            drawn: name of the file in which the prediction is drawn.
        """
        ...


class RecordsWriter:
    """predictions.json, a list with a record per image, and predictions.csv, a line per image.

    Args:
        folder: to write to.
        record: the entry of a prediction in predictions.json beside `path` and `drawn`.
        row: the line of a record in predictions.csv after `path`; all have the same columns.
    """

    files: tuple[str, ...] = ("predictions.csv", "predictions.json")

    def __init__(
        self,
        folder: Path,
        record: Callable[[Prediction], dict[str, Any]],
        row: Callable[[Mapping[str, Any]], dict[str, Any]],
    ) -> None:
        self.folder, self.record, self.row = folder, record, row
        self.records: list[dict[str, Any]] = []

    def __enter__(self) -> RecordsWriter:
        return self

    def add(self, prediction: Prediction, number: int, drawn: str) -> None:
        self.records.append({"path": prediction.path, "drawn": drawn, **self.record(prediction)})

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            return
        with replacing(self.folder / "predictions.json") as temporary:
            temporary.write_text(json.dumps(self.records, indent=1))
        rows = []
        for record in self.records:
            entries = {key: value for key, value in record.items() if key not in ("path", "drawn")}
            rows.append({"path": record["path"], **self.row(entries)})
        with (
            replacing(self.folder / "predictions.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            writer = csv.DictWriter(file, list(rows[0]) if rows else ["path"])
            writer.writeheader()
            writer.writerows(rows)
