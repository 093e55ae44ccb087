"""The engines that compute what a checkpoint's model does, and which of them is the fastest on this machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import vertebra
from vertebra.errors import VertebraError, one_of
from vertebra.export import formats
from vertebra.files import read_json, replacing
from vertebra.weights.locate import locate

if TYPE_CHECKING:
    from vertebra.predict.predictor import Predictor

ENGINES = ("eager", "folded", "onnx", "openvino", "auto")
"""`eager` is the model as it was trained; `folded` has its norms in the weights; `onnx` and `openvino` run it exported;
`auto` is the fastest of these."""
EXPORTED_PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16"}
"""Precision of an exported file by that of prediction."""
ROUNDS = 7
"""Predictions of each engine, which take turns; the median counts."""
MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True)
class Measurement:
    """An engine on this machine."""

    engine: str
    milliseconds: float | None
    """Median time of a prediction for one image; None if the engine cannot run the model."""
    agreement: float | None = None
    """Share of its predictions that agree with the folded model's, in 0..1, where it runs an exported file."""
    problem: str = ""
    """Why it cannot run the model."""


def exported(checkpoint: Any, engine: str, precision: str) -> Path:
    """The file that an engine runs, which is exported beside the checkpoint unless it is there.

    Raises:
        VertebraError: if the engine has no such precision, a package is missing, or the model cannot be exported.
    """
    from vertebra.predict.predictor import Predictor  # which imports this module

    one_of(f"precision with engine {engine}", precision, EXPORTED_PRECISIONS)
    module, path = formats.find(engine), locate(checkpoint)
    file = _folder(path) / f"{_key(path, precision)}{module.SUFFIX}"
    if not file.is_file():
        Predictor(path, device="cpu").export(file, precision=EXPORTED_PRECISIONS[precision])
    return file


def fastest(checkpoint: Any, precision: str) -> str:
    """The engine that was the fastest when they were measured, which is done at the first call for a checkpoint."""
    path = locate(checkpoint)
    known = _remembered(path).get(_key(path, precision))
    engine = known.get("engine") if isinstance(known, dict) else None
    return engine if engine in ENGINES[:-1] else best(measure(path, precision)).engine


def best(measurements: list[Measurement]) -> Measurement:
    """The fastest."""
    return min((row for row in measurements if row.milliseconds is not None), key=lambda row: row.milliseconds or 0.0)


def measure(checkpoint: Any, precision: str = "32-true") -> list[Measurement]:
    """Measures every engine on this machine's CPU, and remembers the fastest beside the checkpoint.

    An engine that runs an exported file takes part if its predictions agree with the model's, as `vertebra export` has
    it.

    Args:
        checkpoint: `best.safetensors`, or the run folder that holds it.
        precision: as for `vertebra.load`.
    """
    path = locate(checkpoint)
    ready, rows = {}, []
    for engine in ENGINES[:-1]:
        try:
            ready[engine] = _predictor(path, engine, precision)
        except VertebraError as error:
            rows.append(Measurement(engine, None, problem=str(error)))
    for engine, milliseconds in _times(ready).items():
        certificate = (ready[engine].about.get("export") or {}).get("certificate") or {}
        rows.append(Measurement(engine, milliseconds, certificate.get("agreement")))
    rows.sort(key=lambda row: ENGINES.index(row.engine))
    entry = {"engine": best(rows).engine, "measurements": [asdict(row) for row in rows]}
    remembered = {**_remembered(path), _key(path, precision): entry}
    with replacing(_folder(path) / "engines.json") as temporary:
        temporary.write_text(json.dumps(remembered, indent=1))
    return rows


def _predictor(path: Path, engine: str, precision: str) -> Predictor:
    from vertebra.predict.predictor import Predictor  # which imports this module

    return Predictor(path, device="cpu", precision=precision, engine=engine)


def _times(predictors: dict[str, Predictor]) -> dict[str, float]:
    """Median milliseconds of a prediction by each, for a drawn image of the size of the input."""
    from vertebra.data.formats import shapes  # which prediction does not need

    first = next(iter(predictors.values()))
    height, width = first.task.preprocess.size
    image = shapes.draw(0, 0, min(height, width), (1, 3))[0][:1].expand(first.task.preprocess.channels, -1, -1)
    times: dict[str, list[float]] = {engine: [] for engine in predictors}
    for number in range(ROUNDS + 1):
        for engine, predictor in predictors.items():
            start = time.perf_counter()
            predictor.predict(image)
            if number:  # the first call prepares
                times[engine].append(1000 * (time.perf_counter() - start))
    return {engine: statistics.median(values) for engine, values in times.items()}


def _folder(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.stem}.engines")


def _remembered(checkpoint: Path) -> dict[str, Any]:
    """What earlier measurements have found, by `_key`."""
    file = _folder(checkpoint) / "engines.json"
    content = read_json(file, MAX_JSON_BYTES) if file.is_file() else {}
    return content if isinstance(content, dict) else {}


def _key(checkpoint: Path, precision: str) -> str:
    """Changes with all that a measurement depends on: the weights, the libraries and the processor."""
    with checkpoint.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    parts = [weights, precision, vertebra.__version__, torch.__version__, *_versions(), _processor()]
    parts.append(str(torch.get_num_threads()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _versions() -> Iterator[str]:
    for package in ("onnxruntime", "openvino"):
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"no {package}"


def _processor() -> str:
    """The model of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())
