"""The engines beside timm's eager forward: same weights, same input, one process, taking turns.

    python benchmarks/engines.py                              # the six models, float32 and bfloat16
    python benchmarks/engines.py resnet50 --batch 1 --repeats 5

Per model: milliseconds of raw outputs by timm's eager forward, by ours eager, folded, exported to ONNX Runtime and to
OpenVINO; the fastest of ours over timm, and how far its outputs lie from those of the trained model. Ratios above 1 are
in our favour.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from pathlib import Path

import torch
from backbones import build, check, logits, machine, take_turns
from torch import Tensor

import vertebra
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.predict import Predictor
from vertebra.predict.engines import ENGINES

MODELS = ("resnet50", "efficientnetv2_s", "swin_tiny", "vit_base_16", "hrnet_w18", "mixer_b16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
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
    print(f"| model | precision | timm eager | {' | '.join(names)} | ratio | apart |")
    print(f"|---|---|{'---:|' * (len(names) + 3)}")
    gains: dict[str, list[float]] = {}
    for name in options.models:
        images = torch.randn(options.batch, 3, options.size, options.size)
        for precision in ("32-true", "bf16-mixed"):
            gain = compare(name, images, precision, options.repeats)
            gains.setdefault(precision, []).append(gain)
    for precision, values in gains.items():
        mean = math.exp(statistics.fmean(math.log(value) for value in values))
        print(f"\n{precision}: the fastest engine against timm's eager forward, geometric mean: {mean:.3f}")


def compare(name: str, images: Tensor, precision: str, repeats: int) -> float:
    """Prints the row of a model in a precision; returns the gain over timm, which computes in float32."""
    models = build(name)
    check(name, models, images)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        checkpoint.save(models["ours"], Path(folder, "best.safetensors"))  # type: ignore[arg-type]
        engines: dict[str, Predictor] = {}
        for engine in ENGINES[:-1]:
            try:
                engines[engine] = vertebra.load(folder, device="cpu", precision=precision, engine=engine)
            except VertebraError as error:
                print(f"{name}: without {engine}: {error}")
        runs = {engine: (lambda predictor=predictor: predictor.raw(images)) for engine, predictor in engines.items()}
        times = take_turns({"timm": lambda: logits(models["timm"], images), **runs}, repeats)
        fastest = min(engines, key=lambda engine: times[engine])
        trained = logits(models["ours"], images)
        apart = float((engines[fastest].raw(images)[0] - trained).abs().max() / trained.std())
    columns = [f"{1000 * times[key]:.0f}" if key in times else "-" for key in ("timm", *ENGINES[:-1])]
    gain = times["timm"] / times[fastest]
    print(f"| {name} | {precision} | {' | '.join(columns)} | {gain:.2f} {fastest} | {apart:.0e} |", flush=True)
    return gain


if __name__ == "__main__":
    main()
