"""Mask R-CNN and RetinaNet (ResNet-50, FPN) beside torchvision's: same weights, same images, one process, in turns.

    python benchmarks/detection.py                # both, and the other detectors beside our RetinaNet
    python benchmarks/detection.py mask_rcnn      # one part of it: mask_rcnn, engines, retinanet, others, assignment

Whole predictions, from an 8-bit image to boxes or pasted masks, those of Mask R-CNN by every engine; training steps and
their peak memory; by number of boxes, postprocessing (non-maximum suppression and pasting of masks) and the assignment
of objects in ATSS and Sparse R-CNN, which have no peer here. Ratios above 1 are in our favour.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from backbones import machine, peak_memory, take_turns
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn, retinanet_resnet50_fpn, roi_heads
from torchvision.ops import FrozenBatchNorm2d, batched_nms
from torchvision.transforms.v2 import functional

import vertebra
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.images import frame_of
from vertebra.ledger.fabricate import fabricate_state
from vertebra.nn.fold import fold
from vertebra.ops.anchors import anchor_grid
from vertebra.ops.atss import atss_assign
from vertebra.ops.masks import paste_masks
from vertebra.ops.set_matching import match_one_to_one, set_cost
from vertebra.predict.engines import EXPORTED
from vertebra.structures import Masks, Preprocess, Target
from vertebra.tasks.instance.mask_rcnn import Config

# They keep the scores and boxes of fabricated weights in a sensible range.
GAINS = {
    "": 1.0,
    "rpn.head.bbox_pred": 0.1,
    "rpn.head.cls_logits": 0.5,
    "roi_heads.box_predictor.bbox_pred": 0.5,
    "roi_heads.box_predictor.cls_score": 2.0,
}
RETINANET_GAINS = {"": 1.0, "head.classification_head.cls_logits": 2.0, "head.regression_head.bbox_reg": 0.1}
METHODS = ("retinanet", "atss", "reppoints", "reppoints_v2", "sparse_rcnn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--methods", nargs="*", default=METHODS, help="of the part `others`")
    parser.add_argument("parts", nargs="*", default=["mask_rcnn", "engines", "retinanet", "others", "assignment"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, repeats = (options.height, options.width), options.repeats
    print(f"{machine()}; torch {torch.__version__}, torchvision {torchvision.__version__}")
    print(f"{size[0]} x {size[1]}, float32, {options.threads} threads; medians of {repeats}\n")
    by_method = partial(others, methods=options.methods)
    parts = {
        "mask_rcnn": mask_rcnn,
        "engines": engines,
        "retinanet": retinanet,
        "others": by_method,
        "assignment": assignment,
    }
    for name in options.parts:
        torch.manual_seed(0)
        parts[name](size, repeats)


def mask_rcnn(size: tuple[int, int], repeats: int) -> None:
    header("Mask R-CNN", "torchvision")
    theirs, ours = build("instance", maskrcnn_resnet50_fpn, size, GAINS)
    image = noise(size)
    prediction(theirs, copy.deepcopy(ours), image, repeats)
    growth(theirs, copy.deepcopy(ours), image)
    training(theirs, ours, size, repeats)
    postprocessing(ours.config, size, repeats)


def engines(size: tuple[int, int], repeats: int) -> None:
    """Whole predictions of Mask R-CNN by the engines that `engine="auto"` chooses from."""
    header("Mask R-CNN", "torchvision")
    theirs, ours = build("instance", maskrcnn_resnet50_fpn, size, GAINS)
    image = noise(size)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(ours, Path(folder, "best.safetensors"))
        runs: dict[str, Callable[[], Any]] = {"torchvision": partial(infer, theirs, image)}
        for engine, precision in itertools.product(("folded", *EXPORTED), ("32-true", "bf16-mixed")):
            try:
                model = vertebra.load(folder, device="cpu", engine=engine, precision=precision)
            except VertebraError as error:
                print(f"without {engine}, {precision}: {error}")
                continue
            runs[f"{engine}, {precision}"] = partial(model.predict, image, threshold=ours.config.score_threshold)
        times = take_turns(runs, repeats, pause=0.2)  # as in engines.py
    for name, seconds in times.items():
        print(f"| {name}, s | {seconds:.3f} | {times['torchvision']:.3f} | {times['torchvision'] / seconds:.3f} |")


def retinanet(size: tuple[int, int], repeats: int) -> None:
    header("RetinaNet", "torchvision")
    theirs, ours = build("detection", retinanet_resnet50_fpn, size, RETINANET_GAINS)
    prediction(theirs, copy.deepcopy(ours), noise(size), repeats)
    training(theirs, ours, size, repeats, first_label=0)


def others(size: tuple[int, int], repeats: int, methods: Sequence[str]) -> None:
    """The other detectors without proposals beside our RetinaNet, all with ResNet-50 and 80 classes."""
    images, targets, _ = scene(size, 80)
    batch = torch.stack(images).contiguous(memory_format=torch.channels_last)
    print("\n| method | parameters | pyramid, s | head, s | detections, s | loss, s | step, s | step's peak, MiB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    frame = frame_of(size, Preprocess((size[0], max(size)), resize="shortest"))
    for method in methods:
        torch.manual_seed(0)
        task: Any = vertebra.create("detection", method=method, backbone="resnet50", classes=80)
        task.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(task.parameters(), 1e-6)

        def step(task: Any = task, optimizer: Any = optimizer) -> None:
            sum(task.loss(batch, targets).values()).backward()
            optimizer.step()
            optimizer.zero_grad()

        task.train()
        times = take_turns({"loss": partial(task.loss, batch, targets), "step": step}, max(3, repeats // 2))
        times["peak"] = peak_memory(step) / 2**20
        folded: Any = fold(copy.deepcopy(task)).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            raw = folded(batch[:1])
            stages = {
                "pyramid": partial(pyramid, folded, batch[:1]),
                "forward": partial(folded, batch[:1]),
                "detections": partial(folded.decode, raw, [frame]),
            }
            times |= take_turns(stages, repeats)
        parameters = sum(p.numel() for p in task.parameters())
        head = times["forward"] - times["pyramid"]
        seconds = (times["pyramid"], head, times["detections"], times["loss"], times["step"])
        cells = " | ".join(f"{value:.3f}" for value in seconds)
        print(f"| {method} | {parameters / 1e6:.1f} M | {cells} | {times['peak']:.0f} |", flush=True)


def pyramid(task: Any, images: Tensor) -> Any:
    """The maps that the head reads."""
    return task.features(images) if hasattr(task, "features") else task.neck(task.backbone(images))


def header(title: str, peer: str) -> None:
    print(f"\n| {title} | ours | {peer} | ratio |")
    print("|---|---:|---:|---:|")


def noise(size: tuple[int, int]) -> Tensor:
    """[3, H, W] uint8, smooth."""
    image = torch.rand(3, *(side // 16 for side in size))
    smooth = nn.functional.interpolate(image[None], size, mode="bicubic")[0]
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


def build(task: str, make: Callable[..., Any], size: tuple[int, int], gains: dict[str, float]) -> tuple[nn.Module, Any]:
    """torchvision's model and ours with one set of weights, computing the same."""
    theirs = make(weights=None, weights_backbone=None, min_size=size[0], max_size=max(size))
    theirs = nn_frozen(theirs, FrozenBatchNorm2d)
    rows = [(name, list(tensor.shape)) for name, tensor in theirs.state_dict().items()]
    state = fabricate_state(rows, gains, 1.0)
    theirs.load_state_dict(state)
    preprocess = Preprocess((size[0], max(size)), resize="shortest", antialias=False)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder, "weights.pth"))
        ours = vertebra.create(task, preprocess=preprocess, weights=Path(folder, "weights.pth"))
    return theirs.eval(), ours.eval()


def nn_frozen(model: Any, norm: Any) -> Any:
    """The model with frozen norms in its backbone, as torchvision's published weights need it."""
    for module in list(model.backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, norm(child.num_features, eps=0.0))
    return model


def prediction(theirs: nn.Module, ours: Any, image: Tensor, repeats: int) -> None:
    fold(ours).to(memory_format=torch.channels_last)
    masks = ours.task_name == "instance"
    first_label = 1 if masks else 0

    def predict_theirs() -> Any:
        with torch.inference_mode():
            (instances,) = theirs([functional.to_dtype(image, torch.float32, scale=True)])
            pixels = instances["masks"][:, 0] > 0.5 if masks else None
            return instances["boxes"], instances["labels"] - first_label, pixels

    def predict_ours() -> Any:
        (instances,) = ours.predict(image)
        return instances.boxes, instances.labels, instances.masks.dense() if masks else None

    (boxes, labels, their_masks), (our_boxes, our_labels, our_masks) = predict_theirs(), predict_ours()
    apart = torch.cdist(boxes, our_boxes, p=torch.inf) + 1e9 * (labels[:, None] != our_labels)  # in any order
    same = len(boxes) == len(our_boxes) and bool((apart.amin(0) < 0.1).all() and (apart.amin(1) < 0.1).all())
    differ = f"; {float((their_masks != our_masks).float().mean()):.0e} of the pixels of masks differ" if masks else ""
    print(f"| (the prediction: {len(boxes)} objects, {'the same' if same else 'not the same'}{differ}) | | | |")
    row("whole prediction, s", {"ours": predict_ours, "torchvision": predict_theirs}, repeats)
    peak("prediction peak, MiB", {"ours": predict_ours, "torchvision": predict_theirs})


def growth(theirs: Any, ours: Any, image: Tensor) -> None:
    """Prediction by area."""
    fold(ours).to(memory_format=torch.channels_last)
    for share in (0.25, 0.5, 1.0):
        side = [round(s * share**0.5 / 32) * 32 for s in image.shape[1:]]
        small = functional.resize(image, side)
        ours.preprocess = Preprocess((min(side), max(side)), resize="shortest", antialias=False)
        theirs.transform.min_size, theirs.transform.max_size = (min(side),), max(side)
        runs: dict[str, Callable[[], Any]] = {
            "ours": lambda small=small: ours.predict(small),  # type: ignore[misc]
            "torchvision": lambda small=small: infer(theirs, small),  # type: ignore[misc]
        }
        row(f"prediction at {side[0]} x {side[1]}, s", runs, 3)


def infer(model: nn.Module, image: Tensor) -> Any:
    with torch.inference_mode():
        return model([image.float() / 255])


def scene(
    size: tuple[int, int], num_classes: int, *, masks: bool = False
) -> tuple[list[Tensor], list[Target], list[dict[str, Tensor]]]:
    """Two images with ten objects each, as our targets and as torchvision's, whose labels are counted from 0 too."""
    images = [torch.rand(3, *size) for _ in range(2)]
    corners = torch.rand(2, 10, 2) * torch.tensor([size[1] * 0.7, size[0] * 0.7])
    boxes = torch.cat((corners, corners + 40 + torch.rand(2, 10, 2) * 180), 2)
    labels = torch.randint(0, num_classes, (2, 10))
    targets = [Target(boxes=boxes[i], labels=labels[i], size=size) for i in range(2)]
    annotations = [{"boxes": boxes[i], "labels": labels[i]} for i in range(2)]
    for i in range(2 if masks else 0):
        dense = torch.zeros(10, *size, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(dense, boxes[i].int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
        targets[i].masks = Masks.from_dense(dense)
        annotations[i]["masks"] = dense.to(torch.uint8)
    return images, targets, annotations


def training(theirs: Any, ours: Any, size: tuple[int, int], repeats: int, first_label: int = 1) -> None:
    """Forward, backward and a step of SGD on two images with ten objects each."""
    images, targets, annotations = scene(size, len(ours.classes), masks=ours.task_name == "instance")
    for annotation in annotations:
        annotation["labels"] = annotation["labels"] + first_label
    batch = torch.stack(images).contiguous(memory_format=torch.channels_last)
    theirs.transform.min_size, theirs.transform.max_size = (size[0],), max(size)
    ours.to(memory_format=torch.channels_last).train()
    theirs.train()
    optimizers = {
        "ours": torch.optim.SGD(ours.parameters(), 1e-6),
        "torchvision": torch.optim.SGD(theirs.parameters(), 1e-6),
    }

    def step(name: str, loss: Callable[[], dict[str, Tensor]]) -> Callable[[], Any]:
        def run() -> None:
            torch.manual_seed(0)
            sum(loss().values()).backward()  # type: ignore[union-attr]
            optimizers[name].step()
            optimizers[name].zero_grad()

        return run

    runs = {
        "ours": step("ours", lambda: ours.loss(batch, targets)),
        "torchvision": step("torchvision", lambda: theirs(images, annotations)),
    }
    row("training step of 2 images, s", runs, max(3, repeats // 2))
    peak("training peak, MiB", runs)


def postprocessing(config: Config, size: tuple[int, int], repeats: int) -> None:
    """Non-maximum suppression of ten candidates per box, and pasting of the boxes' masks."""
    for count in (1, 100, 1000):
        corners = torch.rand(count, 2) * torch.tensor([size[1] - 120.0, size[0] - 120.0])
        boxes = torch.cat((corners, corners + 40 + torch.rand(count, 2) * 80), 1)
        candidates = (boxes[:, None] + torch.randn(count, 10, 4)).flatten(0, 1)
        scores, labels = torch.rand(count * 10), torch.arange(count).repeat_interleave(10) % 90
        masks = torch.rand(count, 28, 28)
        postprocess = dataclasses.replace(config, max_detections=count)
        runs: dict[str, Callable[[], Any]] = {
            "ours": lambda: (
                postprocess.select(candidates, scores, labels),  # noqa: B023
                paste_masks(masks, boxes, size),  # noqa: B023
            ),
            "torchvision": lambda: (
                batched_nms(candidates, scores, labels, 0.5)[:count],  # noqa: B023
                roi_heads.paste_masks_in_image(masks[:, None], boxes, size) > 0.5,  # noqa: B023
            ),
        }
        row(f"postprocessing of {count} boxes, ms", runs, repeats, 1e3)


def assignment(size: tuple[int, int], repeats: int) -> None:
    """By number of objects: ATSS, which grows linearly and computes distances in bounded parts, and the Hungarian
    matching of Sparse R-CNN's 300 proposals, its cost included."""
    print("\n| objects | ATSS, ms | its peak, MiB | Hungarian matching, ms | its peak, MiB |")
    print("|---:|---:|---:|---:|---:|")
    anchors = [anchor_grid((-(-size[0] // s), -(-size[1] // s)), s, [8.0 * s], [1.0]) for s in (8, 16, 32, 64, 128)]
    for count in (1, 100, 1000):
        corners = torch.rand(count, 2) * torch.tensor([size[1] - 120.0, size[0] - 120.0])
        boxes = torch.cat((corners, corners + 40 + torch.rand(count, 2) * 80), 1)
        labels = torch.randint(0, 80, (count,))
        proposals = boxes[torch.randint(0, count, (300,))] + 20 * torch.randn(300, 4)
        scale = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
        logits = torch.randn(300, 80)
        runs: dict[str, Callable[[], Any]] = {
            "atss": partial(atss_assign, anchors, boxes, boxes[:0]),
            "hungarian": lambda: match_one_to_one(set_cost(logits, proposals, labels, boxes, scale)),  # noqa: B023
        }
        times = take_turns(runs, repeats)
        cells = [f"{times[name] * 1e3:.2f} | {peak_memory(run) / 2**20:.0f}" for name, run in runs.items()]
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


def row(what: str, runs: dict[str, Callable[[], Any]], repeats: int, scale: float = 1.0) -> None:
    times = take_turns(runs, repeats)
    ratio = times["torchvision"] / times["ours"]
    print(f"| {what} | {times['ours'] * scale:.2f} | {times['torchvision'] * scale:.2f} | {ratio:.2f} |", flush=True)


def peak(what: str, runs: dict[str, Callable[[], Any]]) -> None:
    most = {name: peak_memory(run) / 2**20 for name, run in runs.items()}
    ratio = most["torchvision"] / most["ours"]
    print(f"| {what} | {most['ours']:.0f} | {most['torchvision']:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
