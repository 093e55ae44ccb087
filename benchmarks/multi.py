"""Several heads over one backbone beside single models of them: same options, same images, same number of steps.

    python benchmarks/multi.py                                      # 30 epochs of the built-in shapes
    python benchmarks/multi.py --epochs=4 --images=240 --size=64    # a small one
    python benchmarks/multi.py --output=runs/benchmark --speed      # the times again, of the checkpoints that are there

Boxes, masks, label maps and classes of the built-in shapes over one resnet18. Prints for each head its main metric
beside that of its single model, and how long prediction takes: all heads in one pass, and the four models one after the
other, in turns.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import torch
from backbones import machine, take_turns

import vertebra
from vertebra import tasks
from vertebra.data.formats import shapes
from vertebra.engine import multi
from vertebra.engine.head_settings import MultiSettings, resolve_heads
from vertebra.engine.settings import GROUPS
from vertebra.engine.train import train

RCNN = {
    "neck": {"channels": 32},
    "box_width": 128,
    "rpn_post_nms_top_n_test": 30,
    "roi_batch_size": 64,
    "max_detections": 20,  # an image has six objects at most
}
HEADS = {
    "boxes": {"task": "detection", "model": RCNN},
    "masks": {"task": "instance", "model": RCNN},
    "maps": {
        "task": "semantic",
        "model": {"method": "semantic_fpn", "channels": 32, "neck_channels": 64},
        "weight": 2.0,  # with 1, the single model is 2 points of mIoU better
    },
    "classes": {"task": "classification"},
}
SHARED = (
    "epochs",
    "optimizer",
    "lr",
    "weight_decay",
    "warmup",
    "clip",
    "schedule",
    "final_lr_ratio",
    "momentum",
    "precision",
    "val_every",
)
"""Settings of a run that its heads' single models have as well."""
SPEED_IMAGES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, default=shapes.COUNTS["train"], help="training images of every head")
    parser.add_argument("--size", type=int, default=128, help="side of the square input")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--weighting", default="fixed")
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed"))
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--output", type=Path, default=Path("runs/multi-benchmark"))
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shapes.COUNTS.update(train=options.images, val=max(8, options.images // 4))
    print(f"{machine()}; torch {torch.__version__}; {options.threads} threads", flush=True)
    settings = resolve_heads(
        {
            "heads": {name: HEADS[name] for name in options.heads},
            "model.backbone": options.backbone,
            "data.image_size": options.size,
            "data.batch_size": options.batch_size,
            "data.workers": 0,
            "epochs": options.epochs,
            "val_every": options.epochs,  # all are compared after the last step
            "weighting": options.weighting,
            "precision": options.precision,
            "device": "cpu",
            "output": options.output / "multi",
        }
    )
    if not options.speed:
        compare(settings, options.output)
    speed(settings, options.output, options.repeats)


def compare(settings: MultiSettings, output: Path) -> None:
    """Trains all, and prints the main metric of each head beside that of its single model."""
    metrics = {"multi": multi.train(settings).metrics}
    for name in settings.heads:
        chosen = {key: getattr(settings, key) for key in SHARED if key not in GROUPS}
        metrics[name] = train(replace(settings.of_head(name), output=str(output / name), **chosen)).metrics
    print("\n| head | metric | one backbone | single model | difference |\n|---|---|---:|---:|---:|")
    for name, head in settings.heads.items():
        monitor = tasks.find(head["task"]).MODEL.monitor
        ours, alone = metrics["multi"][f"{name}/{monitor}"], metrics[name][monitor]
        print(f"| {name} | {monitor} | {ours:.4f} | {alone:.4f} | {100 * (ours - alone):+.1f} points |", flush=True)


def speed(settings: MultiSettings, output: Path, repeats: int) -> None:
    """Prints how long a prediction takes, by the CPU time of this process."""
    images = [shapes.draw(1, i, 2 * shapes.SIZE, shapes.SEVERAL)[0] for i in range(SPEED_IMAGES)]
    together = vertebra.load(output / "multi", device="cpu")
    alone = {name: vertebra.load(output / name, device="cpu") for name in settings.heads}
    runs = {
        "one backbone": lambda: together.predict(images),
        "single models": lambda: [model.predict(images) for model in alone.values()],
        **{name: lambda model=model: model.predict(images) for name, model in alone.items()},
    }
    seconds = take_turns(runs, repeats, time.process_time)
    print("\n| prediction | CPU ms per image |\n|---|---:|")
    for name, value in seconds.items():
        print(f"| {name} | {1000 * value / SPEED_IMAGES:.1f} |")
    print(f"\nratio {seconds['single models'] / seconds['one backbone']:.2f}", flush=True)


if __name__ == "__main__":
    main()
