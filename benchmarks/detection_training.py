"""Our detectors beside torchvision's, trained from scratch on the same pictures for the same time.

    python benchmarks/detection_training.py bccd/ --task=detection --minutes=20
    python benchmarks/detection_training.py nuclei/ --task=instance --minutes=20 --image_size=512

Both get the same backbone (ResNet-50 with FPN, batch norm, random weights), the same batches from the same loader, the
same optimiser and the same course of the learning rate over the time; evaluation does not count. Prints COCO's numbers
at every fifth of the time, and writes them with a plot into --output.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from backbones import machine
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

import vertebra
from vertebra.data import open_data
from vertebra.data.batches import loader
from vertebra.data.transforms import InstanceAugment
from vertebra.metrics.coco import CocoMetrics
from vertebra.ops.masks import paste
from vertebra.structures import Frame, Prediction, Preprocess, Target
from vertebra.tasks.region import RegionTask


class Theirs(nn.Module):
    """torchvision's detector with the face of ours; pictures come resized and normalised, as ours get them."""

    def __init__(self, task: str, classes: int, size: Sequence[int], detections: int) -> None:
        super().__init__()
        make = maskrcnn_resnet50_fpn if task == "instance" else fasterrcnn_resnet50_fpn
        self.model = make(
            weights=None, weights_backbone=None, num_classes=classes + 1, box_detections_per_img=detections
        )
        self.model.transform.image_mean, self.model.transform.image_std = [0.0] * 3, [1.0] * 3
        self.model.transform.min_size, self.model.transform.max_size = (size[0],), 10 * max(size)  # no second scaling

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        given = []
        for target in targets:
            assert target.boxes is not None
            assert target.labels is not None
            one = {"boxes": target.boxes, "labels": target.labels + 1}
            if target.masks is not None:
                one["masks"] = target.masks.to(torch.uint8)
            given.append(one)
        self.model.transform.min_size = (min(images.shape[-2:]),)
        return self.model(list(images), given)

    def infer(self, images: Tensor, frames: Sequence[Frame]) -> list[Prediction]:
        self.model.transform.min_size = (min(images.shape[-2:]),)
        features = self.model(list(images))
        results = []
        for found, frame in zip(features, frames, strict=True):
            (height, width), (high, wide) = frame.picture, frame.scaled
            factor = torch.tensor([width / wide, height / high, width / wide, height / high])
            boxes = found["boxes"] * factor
            prediction = Prediction(boxes=boxes, scores=found["scores"], labels=found["labels"] - 1, size=frame.picture)
            if "masks" in found:  # pasted into the padded input by torchvision: cut out again, scaled to the picture
                masks = found["masks"][:, :, :high, :wide]
                grown = nn.functional.interpolate(masks, (height, width), mode="bilinear") if len(masks) else masks
                whole = torch.tensor([[0.0, 0.0, width, height]]).expand(len(boxes), 4)
                prediction.masks = paste(grown[:0, 0], whole[:0], frame.picture)
                for mask in grown[:, 0]:
                    prediction.masks.corners.append((0, 0))
                    prediction.masks.crops.append(mask > 0.5)
            results.append(prediction)
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--task", choices=["detection", "instance"], required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--image_size", type=int, default=480)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--models", nargs="*", default=["ours", "torchvision"])
    parser.add_argument("--output", default="runs/beside_torchvision")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    print(f"{machine()}; torch {torch.__version__}, torchvision {torchvision.__version__}; {vars(options)}")
    results = {name: run(name, options) for name in options.models}
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"options": vars(options), "results": results}, indent=1))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    key = "mask_ap" if options.task == "instance" else "box_ap"
    for name, points in results.items():
        axes.plot([p["minutes"] for p in points], [p[key] for p in points], marker="o", label=name)
    axes.set(xlabel="minutes of training", ylabel=key, title=Path(options.path).name)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder / "curves.png", dpi=120)


def run(name: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Trains one model; its numbers at every fifth of the time."""
    truth = "masks" if options.task == "instance" else "boxes"
    catalogue = open_data(options.path, want=truth)
    side = options.image_size
    preprocess = Preprocess((side, round(side * 5 / 3)), resize="shortest")
    common: dict[str, Any] = {"truth": truth, "classes": len(catalogue.classes), "workers": 1}
    training = loader(
        catalogue.split("train"),
        preprocess,
        batch_size=options.batch_size,
        augment=InstanceAugment(scales=(0.8, 1.0)),
        **common,
    )
    validation = loader(catalogue.split("val"), preprocess, batch_size=1, **common)
    torch.manual_seed(0)
    model: Theirs | RegionTask
    if name == "ours":
        made = vertebra.create(
            options.task,
            backbone="resnet50",
            classes=catalogue.classes,
            preprocess=preprocess,
            detections=options.detections,
        )
        assert isinstance(made, RegionTask)
        model = made.to(memory_format=torch.channels_last)
    else:
        model = Theirs(options.task, len(catalogue.classes), preprocess.size, options.detections)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{name}: {parameters:,} parameters", flush=True)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr)
    budget, spent, steps, points = options.minutes * 60, 0.0, 0, []
    model.train()
    while spent < budget:
        for batch in training:
            start = time.perf_counter()
            done = spent / budget
            rate = options.lr * min(1.0, (steps + 1) / 50) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
            for group in optimizer.param_groups:
                group["lr"] = rate
            images = batch.images.contiguous(memory_format=torch.channels_last) if name == "ours" else batch.images
            loss = torch.stack(list(model.loss(images, batch.targets).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps += 1
            spent += time.perf_counter() - start
            if spent >= budget * (len(points) + 1) / 5:
                points.append(
                    {"minutes": spent / 60, "steps": steps, **evaluated(model, validation, catalogue, options)}
                )
                print(name, {k: round(v, 4) for k, v in points[-1].items()}, flush=True)
                model.train()
            if spent >= budget:
                break
    training.close()  # type: ignore[union-attr]
    return points


def evaluated(model: Any, validation: Any, catalogue: Any, options: argparse.Namespace) -> dict[str, float]:
    kinds = ("mask", "box") if options.task == "instance" else ("box",)
    metrics = CocoMetrics(len(catalogue.classes), kinds, most=options.detections)
    model.eval()
    with torch.inference_mode():
        for batch in validation:
            metrics.update(model.infer(batch.images, batch.frames), batch.targets)
    return {k: v for k, v in metrics.compute().items() if k in ("box_ap", "box_ap50", "mask_ap", "mask_ap50")}


if __name__ == "__main__":
    main()
