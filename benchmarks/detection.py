"""Mask R-CNN (ResNet-50, FPN) beside torchvision's: same weights, same images, one process, in turns.

    python benchmarks/detection.py

Whole predictions, from an 8-bit image to pasted masks; training steps and their peak memory; and, by number of boxes,
postprocessing (non-maximum suppression and pasting of masks) and the assignment of ATSS, which has no peer here. Ratios
above 1 are in our favour.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from backbones import machine, peak_memory, take_turns
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, roi_heads
from torchvision.models.detection import maskrcnn_resnet50_fpn as make
from torchvision.ops import FrozenBatchNorm2d, batched_nms

import vertebra
from vertebra.ledger.fabricate import fabricate_state
from vertebra.nn.fold import fold
from vertebra.ops.anchors import anchor_grid
from vertebra.ops.atss import atss_assign
from vertebra.ops.masks import paste_masks
from vertebra.structures import Masks, Preprocess, Target
from vertebra.tasks.instance.mask_rcnn import Config
from vertebra.tasks.instance.mask_rcnn import MaskRCNN as Ours

# They keep the scores and boxes of fabricated weights in a sensible range.
GAINS = {
    "": 1.0,
    "rpn.head.bbox_pred": 0.1,
    "rpn.head.cls_logits": 0.5,
    "roi_heads.box_predictor.bbox_pred": 0.5,
    "roi_heads.box_predictor.cls_score": 2.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = (options.height, options.width)
    print(f"{machine()}; torch {torch.__version__}, torchvision {torchvision.__version__}")
    print(f"{size[0]} x {size[1]}, float32, {options.threads} threads; medians of {options.repeats}\n")
    print("| what | ours | torchvision | ratio |")
    print("|---|---:|---:|---:|")
    theirs, ours = build(size)
    image = torch.rand(3, *(side // 16 for side in size))
    image = (nn.functional.interpolate(image[None], size, mode="bicubic")[0].clamp(0, 1) * 255).to(torch.uint8)
    prediction(theirs, copy.deepcopy(ours), image, options.repeats)
    growth(theirs, copy.deepcopy(ours), image)
    training(theirs, ours, size, options.repeats)
    postprocessing(ours.config, size, options.repeats)
    assignment(size, options.repeats)


def build(size: tuple[int, int]) -> tuple[MaskRCNN, Ours]:
    """torchvision's model and ours with one set of weights, computing the same."""
    norm: Any = FrozenBatchNorm2d
    theirs = make(weights=None, weights_backbone=None, min_size=size[0], max_size=max(size))
    theirs = nn_frozen(theirs, norm)
    rows = [(name, list(tensor.shape)) for name, tensor in theirs.state_dict().items()]
    state = fabricate_state(rows, GAINS, 1.0)
    theirs.load_state_dict(state)
    preprocess = Preprocess((size[0], max(size)), resize="shortest", antialias=False)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder, "weights.pth"))
        ours = vertebra.create(
            "instance", backbone="resnet50", classes=90, preprocess=preprocess, weights=Path(folder, "weights.pth")
        )
    assert isinstance(ours, Ours)
    for module in theirs.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    return theirs.eval(), ours.eval()


def nn_frozen(model: MaskRCNN, norm: Any) -> MaskRCNN:
    """The model with frozen norms in its backbone, as torchvision's published weights need it."""
    for module in list(model.backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, norm(child.num_features, eps=0.0))
    return model


def prediction(theirs: MaskRCNN, ours: Ours, image: Tensor, repeats: int) -> None:
    fold(ours).to(memory_format=torch.channels_last)

    def predict_theirs() -> Any:
        with torch.inference_mode():
            (instances,) = theirs([torchvision.transforms.v2.functional.to_dtype(image, torch.float32, scale=True)])
            return instances["boxes"], instances["labels"] - 1, instances["masks"] > 0.5

    def predict_ours() -> Any:
        (instances,) = ours.predict(image)
        assert instances.masks is not None
        return instances.boxes, instances.labels, instances.masks.dense()

    (boxes, labels, masks), (our_boxes, our_labels, our_masks) = predict_theirs(), predict_ours()
    same = (
        len(boxes) == len(our_boxes) and torch.allclose(boxes, our_boxes, atol=0.1) and torch.equal(labels, our_labels)
    )
    pixels = float((masks[:, 0] != our_masks).float().mean()) if same else 1.0
    print(f"| (the prediction: {len(boxes)} objects; {pixels:.0e} of the pixels of masks differ) | | | |")
    row("whole prediction, s", {"ours": predict_ours, "torchvision": predict_theirs}, repeats)
    peak("prediction peak, MiB", {"ours": predict_ours, "torchvision": predict_theirs})


def growth(theirs: MaskRCNN, ours: Ours, image: Tensor) -> None:
    """Prediction by area."""
    fold(ours).to(memory_format=torch.channels_last)
    for share in (0.25, 0.5, 1.0):
        side = [round(s * share**0.5 / 32) * 32 for s in image.shape[1:]]
        small = torchvision.transforms.v2.functional.resize(image, side)
        ours.preprocess = Preprocess((min(side), max(side)), resize="shortest", antialias=False)
        theirs.transform.min_size, theirs.transform.max_size = (min(side),), max(side)
        runs: dict[str, Callable[[], Any]] = {
            "ours": lambda small=small: ours.predict(small),  # type: ignore[misc]
            "torchvision": lambda small=small: infer(theirs, small),  # type: ignore[misc]
        }
        row(f"prediction at {side[0]} x {side[1]}, s", runs, 3)


def infer(model: MaskRCNN, image: Tensor) -> Any:
    with torch.inference_mode():
        return model([image.float() / 255])


def training(theirs: MaskRCNN, ours: Ours, size: tuple[int, int], repeats: int) -> None:
    """Forward, backward and a step of SGD on two images with ten objects each."""
    images = [torch.rand(3, *size) for _ in range(2)]
    corners = torch.rand(2, 10, 2) * torch.tensor([size[1] * 0.7, size[0] * 0.7])
    boxes = torch.cat((corners, corners + 40 + torch.rand(2, 10, 2) * 180), 2)
    masks = torch.zeros(2, 10, *size, dtype=torch.bool)
    for i in range(2):
        for j, (x1, y1, x2, y2) in enumerate(boxes[i].int().tolist()):
            masks[i, j, y1:y2, x1:x2] = True
    labels = torch.randint(0, 90, (2, 10))
    batch = torch.stack(images).contiguous(memory_format=torch.channels_last)
    targets = [Target(boxes=boxes[i], labels=labels[i], masks=Masks.from_dense(masks[i]), size=size) for i in range(2)]
    annotations = [{"boxes": boxes[i], "labels": labels[i] + 1, "masks": masks[i].to(torch.uint8)} for i in range(2)]
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
    """Assignment of ATSS by number of objects: time grows linearly, and the distances are computed in bounded parts."""
    anchors = [anchor_grid((-(-size[0] // s), -(-size[1] // s)), s, [8.0 * s], [1.0]) for s in (8, 16, 32, 64, 128)]
    for count in (1, 100, 1000):
        corners = torch.rand(count, 2) * torch.tensor([size[1] - 120.0, size[0] - 120.0])
        boxes = torch.cat((corners, corners + 40 + torch.rand(count, 2) * 80), 1)
        run = partial(atss_assign, anchors, boxes, boxes[:0])
        print(f"| assignment of {count} objects, ms | {take_turns({'': run}, repeats)[''] * 1e3:.2f} | - | - |")
        print(f"| its peak, MiB | {peak_memory(run) / 2**20:.0f} | - | - |", flush=True)


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
