"""The engines that compute what a checkpoint's model does, and which of them is the fastest on this machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import vertebra
from vertebra import kinds, tasks
from vertebra.errors import VertebraError, escaped, one_of
from vertebra.export import formats, is_exported
from vertebra.files import read_json, replacing
from vertebra.weights import description
from vertebra.weights.fetch import metadata
from vertebra.weights.locate import locate

if TYPE_CHECKING:
    from vertebra.predict.predictor import Predictor
    from vertebra.structures import Prediction

ENGINES = ("eager", "folded", "compiled", "frozen", "onnx", "openvino", "auto")
"""`eager` is the model as it was trained; `folded` has its norms in the weights; `compiled` is the folded model by
torch.compile, and `frozen` the same with the weights as constants; `onnx` and `openvino` run it exported; `auto` is the
fastest of these."""
EXPORTED = ("onnx", "openvino")
COMPILED = ("compiled", "frozen")
EXPORTED_PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16", "int8": "int8"}
"""Precision of an exported file by that of prediction."""
ROUNDS = 7
"""Timed predictions of each engine, which take turns; the median counts."""
MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True)
class Measurement:
    """An engine on this machine."""

    engine: str
    precision: str
    """Number format of its computation, as for `vertebra.load`."""
    milliseconds: float | None
    """Median time of a prediction for one image; None if the engine cannot run the model."""
    start: float | None = None
    """Seconds from loading to the first prediction, most of them of a compiler where the engine has one."""
    agreement: float | None = None
    """Share of its predictions that agree with the folded model's, in 0..1: on the images of the certificate where it
    runs an exported file, else on the image that was measured."""
    problem: str = ""
    """Why it cannot run the model."""


def exported(checkpoint: Any, engine: str, precision: str, data: str | None = None) -> Path:
    """The file that an engine runs, which is exported into a folder of the checkpoint unless it is there.

    Args:
        data: to export with, as `Predictor.export` takes it.

    Raises:
        VertebraError: if the engine has no such precision, a package is missing, or the model cannot be exported.
    """
    from vertebra.predict.predictor import Predictor  # which imports this module

    one_of(f"precision with engine {engine}", precision, EXPORTED_PRECISIONS)
    module, path = formats.find(engine), locate(checkpoint)
    name = f"{_key(path, precision)}{module.SUFFIX}"
    for folder in _folders(path):
        if (folder / name).is_file():
            return folder / name
    file = _writable(path) / name
    Predictor(path, device="cpu").export(file, precision=EXPORTED_PRECISIONS[precision], data=data)
    return file


def fastest(checkpoint: Any, precision: str) -> tuple[str, str]:
    """The engine that was the fastest when they were measured, which is done at the first call for a checkpoint, and
    its precision. Models that read texts are not exported, nor measured."""
    path = locate(checkpoint)
    if not _reads_images(path):
        return "folded", "32-true" if precision == "int8" else precision
    known = _remembered(path).get(_key(path, precision))
    if isinstance(known, dict) and known.get("engine") in ENGINES[:-1] and known.get("precision") in allowed(precision):
        return known["engine"], known["precision"]
    print(escaped(f"measuring the engines for {path}, once on this machine"), file=sys.stderr, flush=True)
    row = best(measure(path, precision))
    place = _writable(path) / "engines.json"
    print(escaped(f"the fastest is {row.engine} in {row.precision}; remembered in {place}"), file=sys.stderr)
    return row.engine, row.precision


def allowed(precision: str) -> tuple[str, ...]:
    """The precisions that engines are measured in where `precision` is asked for: float32 is always good enough."""
    return tuple(dict.fromkeys((precision, "32-true")))


def best(measurements: list[Measurement]) -> Measurement:
    """The fastest."""
    return min((row for row in measurements if row.milliseconds is not None), key=lambda row: row.milliseconds or 0.0)


def measure(checkpoint: Any, precision: str = "32-true", data: str | None = None) -> list[Measurement]:
    """Measures every engine on this machine's CPU, and remembers the fastest: beside the checkpoint, or in the user's
    cache where nothing can be written there.

    An engine takes part if its predictions agree with the model's, as `vertebra export` has it.

    Args:
        checkpoint: `best.safetensors`, or the run folder that holds it.
        precision: the least precise that is allowed, as for `vertebra.load`; engines are measured in float32 too.
        data: to export with, as `Predictor.export` takes it.
    """
    from vertebra.export.certificate import AGREEMENT  # with what evaluation needs, which prediction does not
    from vertebra.predict.predictor import Predictor  # which imports this module

    if is_exported(checkpoint):
        raise VertebraError(f"{checkpoint} is exported, which fixed its engine: give the checkpoint that it came from.")
    path = locate(checkpoint)
    ready: dict[tuple[str, str], Predictor] = {}
    first: dict[tuple[str, str], Prediction] = {}
    rows: dict[tuple[str, str], Measurement] = {}
    for engine, number_format in itertools.product(ENGINES[:-1], allowed(precision)):
        if number_format == "int8" and engine not in EXPORTED:
            continue  # torch's engines have none
        key = (engine, number_format)
        try:
            if engine in EXPORTED:
                exported(path, engine, number_format, data)
            start = time.perf_counter()
            predictor = Predictor(path, device="cpu", precision=number_format, engine=engine)
            (first[key],) = predictor.predict(_image(predictor))
            rows[key] = Measurement(*key, None, time.perf_counter() - start)
            ready[key] = predictor
        except VertebraError as error:
            rows[key] = Measurement(*key, None, problem=str(error))
    if not ready:
        raise VertebraError(next(iter(rows.values())).problem)
    for key, predictor in ready.items():
        export = (predictor.about.get("export") or {}).get("certificate") or {}
        same, total = predictor.kind.agreement(first["folded", "32-true"], first[key])
        rows[key] = replace(rows[key], agreement=export.get("agreement", same / total if total else 1.0))
    for key in [key for key in ready if key[0] not in EXPORTED and key != ("folded", "32-true")]:
        share, least = rows[key].agreement or 0.0, AGREEMENT[EXPORTED_PRECISIONS[key[1]]]
        if share < least:
            del ready[key]
            rows[key] = replace(rows[key], problem=f"{share:.2%} of its predictions agree, and {least:.2%} must")
    for key, milliseconds in _times(ready).items():
        rows[key] = replace(rows[key], milliseconds=milliseconds)
    winner = best(list(rows.values()))
    entry = {
        "engine": winner.engine,
        "precision": winner.precision,
        "measurements": [asdict(row) for row in rows.values()],
    }
    remembered = {**_remembered(path), _key(path, precision): entry}
    with replacing(_writable(path) / "engines.json") as temporary:
        temporary.write_text(json.dumps(remembered, indent=1))
    return list(rows.values())


def _image(predictor: Predictor) -> Tensor:
    """A drawn image of the size of the input: [C, H, W] uint8."""
    from vertebra.data.formats import shapes  # which prediction does not need

    side = min(predictor.task.preprocess.size)
    return shapes.draw(0, 0, side, (1, 3))[0][:1].expand(predictor.task.preprocess.channels, -1, -1)


def _times(predictors: dict[tuple[str, str], Predictor]) -> dict[tuple[str, str], float]:
    """Median milliseconds of a prediction by each."""
    image = _image(next(iter(predictors.values())))
    times: dict[tuple[str, str], list[float]] = {key: [] for key in predictors}
    for _ in range(ROUNDS):
        for key, predictor in predictors.items():
            predictor.predict(image)  # meanwhile the threads of the engine before stop waiting for more, on a busy core
            start = time.perf_counter()
            predictor.predict(image)
            times[key].append(1000 * (time.perf_counter() - start))
    return {key: statistics.median(values) for key, values in times.items()}


def _reads_images(checkpoint: Path) -> bool:
    text = metadata(checkpoint).get("vertebra") if checkpoint.suffix == ".safetensors" else None
    about = description.parse(text, checkpoint) if text else {}
    return "method" not in about or kinds.find(tasks.find(about["task"], about["method"]).MODEL.kind).reads_images


def _folders(checkpoint: Path) -> tuple[Path, Path]:
    """Where exported files and measurements are: beside the checkpoint, and in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vertebra")
    name = hashlib.sha256(str(checkpoint.resolve()).encode()).hexdigest()[:16]
    return checkpoint.with_name(f"{checkpoint.stem}.engines"), cache / f"{name}.engines"


def _writable(checkpoint: Path) -> Path:
    """The folder for new files."""
    beside, cache = _folders(checkpoint)
    return beside if os.access(beside if beside.exists() else beside.parent, os.W_OK) else cache


def _remembered(checkpoint: Path) -> dict[str, Any]:
    """What earlier measurements have found, by `_key`; of both folders the later one's."""
    known: dict[str, Any] = {}
    files = [file for folder in _folders(checkpoint) if (file := folder / "engines.json").is_file()]
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        content = read_json(file, MAX_JSON_BYTES)
        known |= content if isinstance(content, dict) else {}
    return known


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
