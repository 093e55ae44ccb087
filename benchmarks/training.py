"""Our models beside those of another library, trained from scratch on the same images for the same time.

    python benchmarks/training.py bccd/ --task=detection --minutes=20 --models ours torchvision
    python benchmarks/training.py bccd/ --task=detection --method=atss --models ours torchvision_fcos
    python benchmarks/training.py nuclei/ --task=instance --image_size=256 --models ours torchvision
    python benchmarks/training.py camvid/ --task=semantic --image_size=240 --width=320 --models ours smp

All get the same backbone with random weights, the same batches from the same loader, the same optimiser and the same
learning rate schedule over the time; only evaluation does not count. The time is that of the CPU per thread: on a quiet
machine that of the clock, and on a busy one without the work of others. Prints the metrics --evaluations times, and
writes them into --output with a plot, with predictions beside the ground truth, and with our model as best.safetensors.

The peers: torchvision's Faster R-CNN, Mask R-CNN and FCOS, and Segmentation Models PyTorch's FPN.
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
from backbones import machine
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torchvision.models import detection

import vertebra
from vertebra import kinds, tasks
from vertebra.data.catalogue import Catalogue
from vertebra.data.loader import EndlessLoader, loader
from vertebra.engine import checkpoint
from vertebra.kinds import Kind
from vertebra.ops.masks import paste_masks
from vertebra.structures import IGNORED, Frame, Prediction, Preprocess, Target
from vertebra.viz.plots import pixels

PLOTTED = {
    "detection": ("box_ap", "box_ap50"),
    "instance": ("mask_ap", "mask_ap50"),
    "semantic": ("miou", "pixel_accuracy"),
}
"""Metrics in the plot."""


class Torchvision(nn.Module):
    """torchvision's detector with the interface of ours; images come resized and normalised, as ours get them."""

    first_label = 1
    """In its targets and detections; 0 is the background."""

    def __init__(self, task: str, num_classes: int, size: Sequence[int], max_detections: int) -> None:
        super().__init__()
        self.model = self.make(task, num_classes, max_detections)
        self.model.transform.image_mean, self.model.transform.image_std = [0.0] * 3, [1.0] * 3
        self.model.transform.min_size, self.model.transform.max_size = (size[0],), 10 * max(size)  # no second scaling
        self.model.transform.postprocess = lambda detections, *sizes: (
            detections
        )  # boxes and small masks, as the heads give them

    def make(self, task: str, num_classes: int, max_detections: int) -> Any:
        """The detector with random weights."""
        make = detection.maskrcnn_resnet50_fpn if task == "instance" else detection.fasterrcnn_resnet50_fpn
        return make(
            weights=None, weights_backbone=None, num_classes=num_classes + 1, box_detections_per_img=max_detections
        )

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        annotations = []
        for target in targets:
            assert target.boxes is not None
            assert target.labels is not None
            annotation = {"boxes": target.boxes, "labels": target.labels + self.first_label}
            if target.masks is not None:
                annotation["masks"] = target.masks.dense().to(torch.uint8)
            annotations.append(annotation)
        self.model.transform.min_size = (min(images.shape[-2:]),)
        return self.model(list(images), annotations)

    def infer(self, images: Tensor, frames: Sequence[Frame]) -> list[Prediction]:
        self.model.transform.min_size = (min(images.shape[-2:]),)
        results = []
        for detections, frame in zip(self.model(list(images)), frames, strict=True):
            (height, width), (high, wide) = frame.original, frame.resized
            boxes = detections["boxes"] * torch.tensor([width / wide, height / high, width / wide, height / high])
            labels = detections["labels"] - self.first_label
            prediction = Prediction(boxes=boxes, scores=detections["scores"], labels=labels, size=frame.original)
            if "masks" in detections:
                prediction.masks = paste_masks(detections["masks"][:, 0], boxes, frame.original)
            results.append(prediction)
        return results


class TorchvisionFCOS(Torchvision):
    """torchvision's FCOS, which has no background class."""

    first_label = 0

    def make(self, task: str, num_classes: int, max_detections: int) -> Any:
        return detection.fcos_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=num_classes,
            detections_per_img=max_detections,
            score_thresh=0.05,  # that of ours; its default of 0.2 costs AP
        )


class SegmentationModels(nn.Module):
    """Segmentation Models PyTorch's FPN with the interface of ours, for encoders of stride 32.

    It refuses sides that are no multiples of 32; images are padded to the next one, and logits cropped.
    """

    def __init__(self, backbone: str, num_classes: int) -> None:
        import segmentation_models_pytorch as smp

        super().__init__()
        self.model = smp.FPN(backbone, encoder_weights=None, classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every pixel of the input."""
        height, width = images.shape[-2:]
        padded = nn.functional.pad(images, (0, -width % 32, 0, -height % 32))
        logits: Tensor = self.model(padded)[..., :height, :width]
        return logits

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        labels = torch.stack([target.semantic for target in targets if target.semantic is not None])
        logits = self(images).float()
        return {"cross_entropy": nn.functional.cross_entropy(logits, labels.long(), ignore_index=IGNORED)}

    def infer(self, images: Tensor, frames: Sequence[Frame]) -> list[Prediction]:
        predictions = []
        for logits, frame in zip(self(images), frames, strict=True):
            seen = logits[:, : frame.resized[0], : frame.resized[1]].float()
            resized = nn.functional.interpolate(seen[None], frame.original, mode="bilinear")[0]
            predictions.append(Prediction(semantic=resized.argmax(0).to(torch.uint8), size=frame.original))
        return predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--task", choices=list(PLOTTED), required=True)
    parser.add_argument("--method", help="of ours; the task's default if not given")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--image_size", type=int, default=480, help="the shorter side")
    parser.add_argument("--width", type=int, default=0, help="stretch all images to image_size x width")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--evaluations", type=int, default=4, help="the last at the end")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--backbone", default="resnet50", help="torchvision's models have resnet50")
    parser.add_argument("--model", type=json.loads, default={}, help="further options of ours, as JSON")
    parser.add_argument("--freeze", action="store_true", help="of ours, train what follows backbone and neck alone")
    parser.add_argument("--augment", type=json.loads, default={}, help="options of the augmentation, as JSON")
    parser.add_argument("--bf16", action="store_true", help="matrix products of training in bfloat16 (autocast)")
    parser.add_argument(
        "--overfit", type=int, default=0, help="overfit so many val images: no augmentation, evaluated on them"
    )
    parser.add_argument(
        "--models", nargs="*", choices=["ours", "torchvision", "torchvision_fcos", "smp"], default=["ours"]
    )
    parser.add_argument("--output", default="runs/beside")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{machine()}; torch {torch.__version__}; {vars(options)}")
    kind = kinds.find(tasks.find(options.task).MODEL.kind)
    catalogue = kind.open(options.path)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    results, predictions = {}, {}
    for name in options.models:
        results[name], predictions[name] = run(name, catalogue, kind, options)
        (folder / "results.json").write_text(json.dumps({"options": vars(options), "results": results}, indent=1))
    curves(results, options).savefig(folder / "curves.png", dpi=120)
    side_by_side(predictions, results, catalogue, kind).save(folder / "predictions.png")


def curves(results: Mapping[str, Sequence[Mapping[str, float]]], options: argparse.Namespace) -> Figure:
    """The metrics of the task over the time."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, rows) in enumerate(results.items()):
        minutes = [row["minutes"] for row in rows]
        for key, line in zip(PLOTTED[options.task], ("-", "--"), strict=True):
            axes.plot(minutes, [row[key] for row in rows], line, color=f"C{i}", marker="o", label=f"{name}, {key}")
    axes.set(xlabel="minutes of training", title=Path(options.path).name, xlim=0, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def side_by_side(
    predictions: Mapping[str, Sequence[Prediction]],
    results: Mapping[str, Sequence[Mapping[str, float]]],
    catalogue: Catalogue,
    kind: Kind,
    count: int = 3,
) -> Image.Image:
    """A row for each of `count` images of the val split: its ground truth, and the prediction of each model, objects
    from the score at which their F1 is best."""
    side, letters = 320, ImageFont.load_default(size=15)
    samples = catalogue.split("val")[: min(map(len, predictions.values()))]  # --overfit takes the first
    chosen = [round((i + 0.5) * len(samples) / count) for i in range(count)]
    rows = []
    for index in chosen:
        image = pixels(samples[index])
        target = samples[index].load_target((image.shape[1], image.shape[2]))
        columns = [
            kind.draw_target(image, target, catalogue.classes),
            *(
                kind.draw(
                    image, detections[index], catalogue.classes, threshold=results[name][-1].get("threshold", 0.0)
                )
                for name, detections in predictions.items()
            ),
        ]
        rows.append([drawn.resize((side, round(drawn.height * side / drawn.width))) for drawn in columns])
    sheet = Image.new(
        "RGB",
        ((side + 6) * (len(predictions) + 1), 24 + sum(max(drawn.height for drawn in row) + 6 for row in rows)),
        "white",
    )
    pen, top = ImageDraw.Draw(sheet), 24
    for i, name in enumerate(("ground truth", *predictions)):
        pen.text((i * (side + 6) + side / 2, 12), name, fill="black", font=letters, anchor="mm")
    for row in rows:
        for i, drawn in enumerate(row):
            sheet.paste(drawn, (i * (side + 6), top))
        top += max(drawn.height for drawn in row) + 6
    return sheet


def run(
    name: str, catalogue: Catalogue, kind: Kind, options: argparse.Namespace
) -> tuple[list[dict[str, float]], list[Prediction]]:
    """Trains one model; returns its metrics of every evaluation, and its predictions at the end."""
    side = options.image_size
    if options.width:
        preprocess = Preprocess((side, options.width), resize="squash")
    else:
        preprocess = Preprocess((side, round(side * 5 / 3)), resize="shortest")
    common: dict[str, Any] = {"num_classes": len(catalogue.classes), "workers": 1}
    train_samples, val_samples = catalogue.split("train"), catalogue.split("val")
    scales = {"scales": (0.8, 1.0)} if kind.objects else {}
    augment = kind.augment(**scales, **options.augment)
    if options.overfit:
        train_samples = val_samples = val_samples[: options.overfit]
        augment = kind.no_augment
    training = loader(train_samples, preprocess, kind, batch_size=options.batch_size, augment=augment, **common)
    assert isinstance(training, EndlessLoader)
    validation = loader(val_samples, preprocess, kind, batch_size=1, **common)
    torch.manual_seed(0)
    ours = vertebra.create(
        options.task,
        method=options.method,
        backbone=options.backbone,
        classes=catalogue.classes,
        preprocess=preprocess,
        **options.model,
    ).to(memory_format=torch.channels_last)
    model: Any = ours
    if options.freeze:
        for part in (ours.backbone, ours.neck):
            part.requires_grad_(False)
    if name in ("torchvision", "torchvision_fcos"):
        peer = Torchvision if name == "torchvision" else TorchvisionFCOS
        model = peer(options.task, len(catalogue.classes), preprocess.size, ours.config.max_detections)
    elif name == "smp":
        model = SegmentationModels(options.backbone, len(catalogue.classes))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{name}: {parameters:,} parameters", flush=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    rest = [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr)
    budget, steps, epoch = options.minutes * 60 * options.threads, 0, 0
    rows: list[dict[str, float]] = []
    predictions: list[Prediction] = []
    model.train()
    start = time.process_time()
    while len(rows) < options.evaluations:
        training.set_epoch(epoch)
        epoch += 1
        for batch in training:
            done = min(1.0, (time.process_time() - start) / budget)
            rate = options.lr * min(1.0, (steps + 1) / 50) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
            for group in optimizer.param_groups:
                group["lr"] = rate
            images = batch.images.contiguous(memory_format=torch.channels_last) if name == "ours" else batch.images
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                loss = torch.stack(list(model.loss(images, batch.targets).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            steps += 1
            spent = time.process_time() - start
            if spent < budget * (len(rows) + 1) / options.evaluations:
                continue
            numbers, predictions = evaluate(model, validation, ours.metrics())
            rows.append({"minutes": spent / 60 / options.threads, "steps": steps, **numbers})
            print(name, {k: round(v, 4) for k, v in rows[-1].items()}, flush=True)
            if len(rows) == options.evaluations:
                break
            model.train()
            start = time.process_time() - spent
    training.close()
    if model is ours:
        checkpoint.save(ours, Path(options.output, "best.safetensors"))
    return rows, predictions


def evaluate(model: Any, validation: Any, metrics: Any) -> tuple[dict[str, float], list[Prediction]]:
    predictions: list[Prediction] = []
    order: list[int] = []
    model.eval()
    with torch.inference_mode():
        for batch in validation:
            batch_predictions = model.infer(batch.images, batch.frames)
            metrics.update(batch_predictions, batch.targets)
            order += batch.indices
            predictions += batch_predictions
    numbers = {key: value for key, value in metrics.compute().items() if isinstance(value, float)}
    return numbers, [predictions[order.index(i)] for i in range(len(order))]


if __name__ == "__main__":
    main()
