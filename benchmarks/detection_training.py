"""Our detectors beside torchvision's, trained from scratch on the same pictures for the same time.

    python benchmarks/detection_training.py bccd/ --task=detection --minutes=20
    python benchmarks/detection_training.py nuclei/ --task=instance --minutes=20 --image_size=256

Both get the same backbone (ResNet-50 with FPN, batch norm, random weights), the same batches from the same loader, the
same optimiser and the same course of the learning rate over the time; evaluation does not count, all else does. Prints
COCO's numbers --points times, and writes them into --output with a plot, and with pictures beside what is true of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from backbones import machine
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

import vertebra
from vertebra.data import open_data
from vertebra.data.batches import Endless, loader
from vertebra.data.catalogue import Catalogue
from vertebra.data.transforms import InstanceAugment
from vertebra.metrics.coco import CocoMetrics
from vertebra.ops.masks import paste
from vertebra.structures import Frame, Prediction, Preprocess, Target
from vertebra.tasks.region import RegionTask
from vertebra.viz.draw import instances
from vertebra.viz.instances import as_prediction
from vertebra.viz.plots import pixels


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
        self.model.transform.postprocess = lambda found, *sizes: found  # boxes and small masks, as the heads give them

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
        results = []
        for found, frame in zip(self.model(list(images)), frames, strict=True):
            (height, width), (high, wide) = frame.picture, frame.scaled
            boxes = found["boxes"] * torch.tensor([width / wide, height / high, width / wide, height / high])
            prediction = Prediction(boxes=boxes, scores=found["scores"], labels=found["labels"] - 1, size=frame.picture)
            if "masks" in found:
                prediction.masks = paste(found["masks"][:, 0], boxes, frame.picture)
            results.append(prediction)
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--task", choices=["detection", "instance"], required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--image_size", type=int, default=480)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--points", type=int, default=4, help="evaluations, the last at the end")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--backbone", default="resnet50", help="of ours; torchvision's is resnet50")
    parser.add_argument("--model", type=json.loads, default={}, help="further options of ours, as JSON")
    parser.add_argument("--bf16", action="store_true", help="matrix products of training in bfloat16 (autocast)")
    parser.add_argument(
        "--overfit", type=int, default=0, help="learn so many val pictures by heart: no augmentation, judged by them"
    )
    parser.add_argument("--models", nargs="*", default=["ours", "torchvision"])
    parser.add_argument("--output", default="runs/beside_torchvision")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    print(f"{machine()}; torch {torch.__version__}, torchvision {torchvision.__version__}; {vars(options)}")
    catalogue = open_data(options.path, want="masks" if options.task == "instance" else "boxes")
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    results, answers = {}, {}
    for name in options.models:
        results[name], answers[name] = run(name, catalogue, options)
        (folder / "results.json").write_text(json.dumps({"options": vars(options), "results": results}, indent=1))
    curves(results, options).savefig(folder / "curves.png", dpi=120)
    side_by_side(answers, catalogue).save(folder / "pictures.png")


def curves(results: Mapping[str, Sequence[Mapping[str, float]]], options: argparse.Namespace) -> Figure:
    """AP and AP50 over the time."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    kind = "mask" if options.task == "instance" else "box"
    for i, (name, points) in enumerate(results.items()):
        minutes = [p["minutes"] for p in points]
        for key, line in (("ap50", "--"), ("ap", "-")):
            values = [p[f"{kind}_{key}"] for p in points]
            axes.plot(minutes, values, line, color=f"C{i}", marker="o", label=f"{name}, {key.upper()}")
    axes.set(xlabel="minutes of training", ylabel=f"{kind} AP", title=Path(options.path).name, xlim=0, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def side_by_side(answers: Mapping[str, Sequence[Prediction]], catalogue: Catalogue, count: int = 3) -> Image.Image:
    """A row for each of `count` pictures of the validation split: what is true of it, and what each model found."""
    samples, side, letters = catalogue.split("val"), 320, ImageFont.load_default(size=15)
    chosen = [round((i + 0.5) * len(samples) / count) for i in range(count)]
    rows = []
    for index in chosen:
        picture = pixels(samples[index])
        truth = as_prediction(samples[index].truth((picture.shape[1], picture.shape[2])))
        columns = [
            instances(picture, p, catalogue.classes, threshold=0.5)
            for p in (truth, *(a[index] for a in answers.values()))
        ]
        rows.append([image.resize((side, round(image.height * side / image.width))) for image in columns])
    sheet = Image.new("RGB", ((side + 6) * (len(answers) + 1), 24 + sum(row[0].height + 6 for row in rows)), "white")
    pen, top = ImageDraw.Draw(sheet), 24
    for i, name in enumerate(("truth", *answers)):
        pen.text((i * (side + 6) + side / 2, 12), name, fill="black", font=letters, anchor="mm")
    for row in rows:
        for i, image in enumerate(row):
            sheet.paste(image, (i * (side + 6), top))
        top += row[0].height + 6
    return sheet


def run(
    name: str, catalogue: Catalogue, options: argparse.Namespace
) -> tuple[list[dict[str, float]], list[Prediction]]:
    """Trains one model; its numbers of every evaluation, and its answers at the end."""
    truth = "masks" if options.task == "instance" else "boxes"
    side = options.image_size
    preprocess = Preprocess((side, round(side * 5 / 3)), resize="shortest")
    common: dict[str, Any] = {"truth": truth, "classes": len(catalogue.classes), "workers": 1}
    learned, judged = catalogue.split("train"), catalogue.split("val")
    augment = InstanceAugment(scales=(0.8, 1.0))
    if options.overfit:
        learned = judged = judged[: options.overfit]
        augment = InstanceAugment(scales=(1.0, 1.0), flip=0.0, colour=0.0)
    training = loader(learned, preprocess, batch_size=options.batch_size, augment=augment, **common)
    assert isinstance(training, Endless)
    validation = loader(judged, preprocess, batch_size=1, **common)
    torch.manual_seed(0)
    model: Theirs | RegionTask
    if name == "ours":
        made = vertebra.create(
            options.task,
            backbone=options.backbone,
            classes=catalogue.classes,
            preprocess=preprocess,
            detections=options.detections,
            **options.model,
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
    budget, steps, epoch, points, answers = options.minutes * 60, 0, 0, [], []
    model.train()
    start = time.perf_counter()
    while len(points) < options.points:
        training.set_epoch(epoch)
        epoch += 1
        for batch in training:
            done = min(1.0, (time.perf_counter() - start) / budget)
            rate = options.lr * min(1.0, (steps + 1) / 50) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
            for group in optimizer.param_groups:
                group["lr"] = rate
            images = batch.images.contiguous(memory_format=torch.channels_last) if name == "ours" else batch.images
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                loss = torch.stack(list(model.loss(images, batch.targets).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps += 1
            spent = time.perf_counter() - start
            if spent < budget * (len(points) + 1) / options.points:
                continue
            numbers, answers = evaluated(model, validation, catalogue, options)
            points.append({"minutes": spent / 60, "steps": steps, **numbers})
            print(name, {k: round(v, 4) for k, v in points[-1].items()}, flush=True)
            if len(points) == options.points:
                break
            model.train()
            start = time.perf_counter() - spent
    training.close()
    return points, answers


def evaluated(
    model: Theirs | RegionTask, validation: Any, catalogue: Catalogue, options: argparse.Namespace
) -> tuple[dict[str, float], list[Prediction]]:
    kinds = ("mask", "box") if options.task == "instance" else ("box",)
    metrics = CocoMetrics(len(catalogue.classes), kinds, most=options.detections)
    answers: list[Prediction] = []
    model.eval()
    with torch.inference_mode():
        for batch in validation:
            found = model.infer(batch.images, batch.frames)
            metrics.update(found, batch.targets)
            answers += found
    numbers = {k: v for k, v in metrics.compute().items() if k in ("box_ap", "box_ap50", "mask_ap", "mask_ap50")}
    return numbers, answers


if __name__ == "__main__":
    main()
