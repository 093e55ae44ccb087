"""The engines beside timm's eager forward: same weights, same input, one process, taking turns.

    python benchmarks/engines.py                              # the six models in float32, bfloat16 and int8
    python benchmarks/engines.py resnet50 --batch 1 --repeats 5

Per model: milliseconds of raw outputs by timm's eager forward, by ours eager, folded, exported to ONNX Runtime and to
OpenVINO, and by these two called by hand on the same files; timm over the fastest of ours, the fastest by hand over the
fastest of ours, and how far its outputs lie from those of the trained model. Ratios above 1 are in our favour. The
weights are fabricated, so that of int8 only the time means something; it is exported however much its predictions
differ.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import openvino
import torch
from backbones import build, check, logits, machine, take_turns
from torch import Tensor
from torchvision.io import write_png

import vertebra
from vertebra.data.formats import shapes
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.export import formats
from vertebra.predict import Predictor
from vertebra.predict.engines import ENGINES, EXPORTED, exported

PRECISIONS = ("32-true", "bf16-mixed", "int8")
CALIBRATION_IMAGES = 16
BY_HAND = {engine: f"{engine} by hand" for engine in EXPORTED}
MODELS = ("resnet50", "efficientnetv2_s", "swin_tiny", "vit_base_16", "hrnet_w18", "mixer_b16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{machine()}; torch {torch.__version__}")
    print(
        f"batch {options.batch}, {options.size} x {options.size}, {options.threads} threads; medians of "
        f"{options.repeats}, ms\n"
    )
    names = ENGINES[:-1]
    print(
        f"| model | precision | timm eager | {' | '.join((*names, *BY_HAND.values()))} | ratio | to by hand | apart |"
    )
    print(f"|---|---|{'---:|' * (len(names) + len(BY_HAND) + 4)}")
    gains: dict[str, list[tuple[float, float]]] = {}
    for name in options.models:
        images = torch.randn(options.batch, 3, options.size, options.size)
        for precision in options.precisions:
            gain = compare(name, images, precision, options.repeats)
            gains.setdefault(precision, []).append(gain)
    for precision, values in gains.items():
        timm, hand = (math.exp(statistics.fmean(map(math.log, column))) for column in zip(*values, strict=True))
        print(f"\n{precision}: geometric means of the ratios: {timm:.3f} to timm, {hand:.3f} to engines called by hand")


def compare(name: str, images: Tensor, precision: str, repeats: int) -> tuple[float, float]:
    """Prints the row of a model in a precision; returns the gain over timm, which computes in float32, and over the
    fastest engine called by hand."""
    models = build(name)
    check(name, models, images)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        checkpoint.save(models["ours"], Path(folder, "best.safetensors"))  # type: ignore[arg-type]
        engines: dict[str, Predictor] = {}
        for engine in EXPORTED if precision == "int8" else ENGINES[:-1]:
            try:
                engines[engine] = load(Path(folder), engine, precision)
            except VertebraError as error:
                print(f"{name}: without {engine}: {error}")
        runs = {engine: (lambda predictor=predictor: predictor.raw(images)) for engine, predictor in engines.items()}
        for engine in engines.keys() & BY_HAND:
            runs[BY_HAND[engine]] = by_hand(engine, file_of(Path(folder), engine, precision), precision, images)
        # A thread pool may spin for a while after its work, on the core that the next engine needs.
        times = take_turns({"timm": lambda: logits(models["timm"], images), **runs}, repeats, pause=0.2)
        fastest = min(engines, key=lambda engine: times[engine])
        trained = logits(models["ours"], images)
        apart = float((engines[fastest].raw(images)[0] - trained).abs().max() / trained.std())
    keys = ("timm", *ENGINES[:-1], *BY_HAND.values())
    columns = [f"{1000 * times[key]:.0f}" if key in times else "-" for key in keys]
    gain = times["timm"] / times[fastest]
    hand = min(times[key] for key in BY_HAND.values() if key in times) / times[fastest]
    print(
        f"| {name} | {precision} | {' | '.join(columns)} | {gain:.2f} {fastest} | {hand:.2f} | {apart:.0e} |",
        flush=True,
    )
    return gain, hand


def load(folder: Path, engine: str, precision: str) -> Predictor:
    """The checkpoint in `folder` by an engine."""
    if precision != "int8":
        return vertebra.load(folder, device="cpu", precision=precision, engine=engine)
    file = file_of(folder, engine, precision)
    vertebra.load(folder, device="cpu").export(
        file,
        precision="int8",
        data=str(calibration(folder / "data")),
        min_agreement=0,
        max_drop=1,
        calibration_images=CALIBRATION_IMAGES,
    )
    return vertebra.load(file)


def file_of(folder: Path, engine: str, precision: str) -> Path:
    """What an engine runs."""
    return folder / f"int8{formats.find(engine).SUFFIX}" if precision == "int8" else exported(folder, engine, precision)


def by_hand(engine: str, file: Path, precision: str, images: Tensor) -> Callable[[], object]:
    """The engine's own call, as its documentation has it."""
    array = images.numpy()
    if engine == "onnx":
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, settings)
        return lambda: session.run(None, {session.get_inputs()[0].name: array})
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16-mixed" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(file, "CPU", settings)
    return lambda: compiled([array])


def calibration(folder: Path) -> Path:
    """A list of drawn images, which are given the first classes of a model of 1000."""
    folder.mkdir(exist_ok=True)
    lines = ["path,label,split"]
    for split, start in (("train", 0), ("val", CALIBRATION_IMAGES)):
        for index in range(start, start + CALIBRATION_IMAGES):
            write_png(shapes.draw(0, index, 256, shapes.SEVERAL)[0], str(folder / f"{index}.png"))
            lines.append(f"{index}.png,{index % CALIBRATION_IMAGES},{split}")
    path = folder / "labels.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
