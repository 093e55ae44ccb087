"""Cutting and merging boundary patches beside the original, and upper bounds of refinement.

    python benchmarks/refinement.py speed BPR            # BPR: a checkout of github.com/tinyalpha/BPR
    python benchmarks/refinement.py bounds shapes DATA   # ground truth in place of the network's answer

`speed`: patches of all instances of an image are cut and answers merged, by `Refiner` and by the original's `get_dets`,
`crop` and `run_inst`, in one process, in turns; both get the same answers and must give the same masks. Of the original
neither files nor run-length encoding count. Where mmcv and OpenCV are missing, torchvision's NMS, by which the original
keeps the same boxes, and an empty module stand in for them.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from backbones import machine, take_turns
from faster_coco_eval.core import mask as coco_mask
from torch import Tensor
from torch.nn.functional import interpolate

import vertebra
from vertebra import kinds
from vertebra.data.degrade import degrade
from vertebra.data.geometry import read_example
from vertebra.ops import rle
from vertebra.ops.patches import boundary_patches, boundary_scores, cut, paste
from vertebra.refine import Refiner
from vertebra.structures import Masks, Prediction

SIDES = (16, 32, 64)
THRESHOLDS = (0.15, 0.25, 0.35, 0.45, 0.55)
INSTANCES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    speed = modes.add_parser("speed")
    speed.add_argument("original", type=Path)
    speed.add_argument("--repeats", type=int, default=5)
    bounds = modes.add_parser("bounds")
    bounds.add_argument("data", nargs="+")
    bounds.add_argument("--images", type=int, default=20, help="of a val split, the first ones")
    options = parser.parse_args()
    print(f"{machine()}; torch {torch.__version__}, torchvision {torchvision.__version__}")
    if options.mode == "speed":
        torch.set_num_threads(1)
        compare(options.original, options.repeats)
    else:
        for path in options.data:
            print_bounds(path, options.images)


# -- speed


class Given(Refiner):
    """Takes the network's answers from a list, in the order of the patches."""

    answers: Tensor

    def foreground(self, patches: Any) -> list[Tensor]:
        lengths = [len(group) for group in patches]
        return list(self.answers[self.counts.patches - sum(lengths) : self.counts.patches].split(lengths))


def compare(original: Path, repeats: int) -> None:
    split, merge = import_original(original)
    print(f"{INSTANCES} instances; CPU time of one thread, medians of {repeats}")
    print("\n| image | objects | NMS | patches | ours, ms | original, ms | ratio |\n|---|---|---:|---:|---:|---:|---:|")
    for size, share in (((480, 640), 0.1), ((480, 640), 0.3), ((1024, 2048), 0.1)):
        for threshold in (0.25, 0.55):
            _row(split, merge, size, share, threshold, repeats)


def _row(split: Any, merge: Any, size: tuple[int, int], share: float, threshold: float, repeats: int) -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    masks = blobs(size, share)
    coarse = [mask.numpy().astype(np.uint8) for mask in masks.dense()]
    prediction = Prediction(masks=masks, boxes=masks.boxes(), size=size)
    refiner = Given(vertebra.create("refinement", backbone="resnet18"), nms_threshold=threshold)
    boxes = [boundary_patches(mask, 64, threshold) for mask in masks.dense()]
    refiner.answers = torch.rand(sum(map(len, boxes)), 64, 64)
    results: dict[str, Any] = {}

    def ours() -> None:
        refiner.counts.patches = 0
        results["ours"] = refiner(image, prediction).masks

    def theirs() -> None:
        refined, start = [], 0
        for mask in coarse:
            detections = split.get_dets(mask, 64, threshold)
            split.crop(pixels, mask, mask, detections, 0)
            places = detections.astype(int)
            merge.info = {
                "patches": list(range(start, start + len(places))),
                "hlist": [(y, 64) for y in places[:, 1].tolist()],
                "wlist": [(x, 64) for x in places[:, 0].tolist()],
            }
            start += len(places)
            merge.run_inst((0, {"mask": mask, "segmentation": {}}))
            refined.append(merge.merged)
        results["theirs"] = refined

    merge.results = refiner.answers.numpy()
    seconds = take_turns({"ours": ours, "theirs": theirs}, repeats, time.process_time)
    for mine, other in zip(results["ours"].dense(), results["theirs"], strict=True):
        assert np.array_equal(mine.numpy(), other.astype(bool))
    ratio = seconds["theirs"] / seconds["ours"]
    print(
        f"| {size[1]} x {size[0]} | {share:g} of its height | {threshold} | {len(refiner.answers)} "
        f"| {1000 * seconds['ours']:.1f} | {1000 * seconds['theirs']:.1f} | {ratio:.1f} |",
        flush=True,
    )


def blobs(size: tuple[int, int], share: float) -> Masks:
    """Random round shapes whose bounding boxes have sides of about `share` of the image's height."""
    masks = Masks(size)
    for _ in range(INSTANCES):
        side = int(share * size[0] * (0.5 + float(torch.rand(()))))
        ys, xs = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
        noise = interpolate(torch.randn(1, 1, 5, 5), (side, side), mode="bicubic")[0, 0]
        x, y = (int(torch.randint(0, limit - side, ())) for limit in (size[1], size[0]))
        masks.append(x, y, xs**2 + ys**2 + 0.3 * noise < 0.7)
    return masks


def import_original(folder: Path) -> tuple[Any, Any]:
    """Its modules `split_patches` and `merge_patches`, with stand-ins for what is missing."""

    def nms(boxes: np.ndarray, scores: np.ndarray, iou: float) -> tuple[None, np.ndarray]:
        return None, torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou).numpy()

    stand_ins = {"cv2": {}, "mmcv": {}, "mmcv.ops": {}, "mmcv.ops.nms": {"nms": nms}}
    try:
        importlib.import_module("mmcv.ops.nms")
        del stand_ins["mmcv"], stand_ins["mmcv.ops"], stand_ins["mmcv.ops.nms"]
    except ImportError:
        print("stand-ins: torchvision.ops.nms for mmcv.ops.nms")
    for name, content in stand_ins.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        sys.modules.setdefault(name, module)
    sys.path.insert(0, str(folder / "tools"))
    split, merge = (importlib.import_module(name) for name in ("split_patches", "merge_patches"))
    merge.args = types.SimpleNamespace(details_dir="", padding=0)
    merge.coco = types.SimpleNamespace(annToMask=lambda inst: inst["mask"].copy())
    merge.open = lambda path: io.StringIO()
    merge.eval = lambda content: merge.info

    def encode(mask: np.ndarray) -> dict[str, bytes]:
        merge.merged = mask
        return {"counts": b""}

    merge.mask_utils = types.SimpleNamespace(encode=encode)
    return split, merge


# -- upper bounds


def print_bounds(path: str, images: int) -> None:
    pairs = list(coarse_and_true(path, images))
    print(f"\n{path}, val: {len(pairs)} instances")
    plain = np.mean([ious(coarse, true) for coarse, true in pairs], 0)
    print(f"coarse masks: IoU {plain[0]:.3f}, boundary IoU {plain[1]:.3f}\n")
    print(
        "| patch | NMS | patches | IoU | boundary IoU | left out | patches, cover | IoU, cover | boundary IoU, cover |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for side in SIDES:
        for threshold in THRESHOLDS:
            rows = [bound(coarse, true, side, threshold, cover) for cover in (False, True) for coarse, true in pairs]
            first, second = np.mean(rows[: len(pairs)], 0), np.mean(rows[len(pairs) :], 0)
            print(
                f"| {side} | {threshold} | {first[0]:.1f} | {first[1]:.3f} | {first[2]:.3f} | {100 * first[3]:.1f} % "
                f"| {second[0]:.1f} | {second[1]:.3f} | {second[2]:.3f} |",
                flush=True,
            )


def coarse_and_true(path: str, images: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Degraded and annotated masks [H, W] of objects."""
    kind = kinds.find("masks")
    for index, sample in enumerate(kind.open(path).split("val")[:images]):
        true = read_example(sample, 3, kind.fields).target.masks
        assert true is not None
        torch.manual_seed(index)
        for i, ((x, y), crop) in enumerate(zip(true.corners, true.crops, strict=True)):
            if crop.any():
                x, y, coarse = degrade(x, y, crop, true.size)
                yield Masks(true.size, [(x, y)], [coarse])[0], true[i]


def bound(coarse: Tensor, true: Tensor, side: int, threshold: float, cover: bool) -> tuple[float, ...]:
    """Number of patches, IoU and boundary IoU with ground truth in them, and the share of boundary pixels in none."""
    boxes = boundary_patches(coarse, side, threshold, cover=cover)
    refined = paste(coarse, boxes, cut(true[None], boxes)[:, 0].float())
    boundary = boundary_scores(coarse) > 0
    inside = paste(torch.zeros_like(coarse), boxes, torch.ones(len(boxes), side, side))
    outside = (boundary & ~inside).sum() / boundary.sum().clamp(min=1)
    return len(boxes), *ious(refined, true), float(outside)


def ious(mask: Tensor, true: Tensor) -> tuple[float, float]:
    """IoU and boundary IoU (arXiv:2103.16562)."""
    codes = [rle.encode(Masks.from_dense(m[None])) for m in (mask, true)]
    edges = [[coco_mask.rleToBoundary(code) for code in group] for group in codes]
    first, second = (float(np.asarray(coco_mask.iou(*pair, [0])).item()) for pair in (codes, edges))
    return first, min(first, second)


if __name__ == "__main__":
    main()
