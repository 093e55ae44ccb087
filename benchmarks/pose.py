"""Our pose models beside their peers: in one process, in turns; ratios above 1 are in our favour.

    python benchmarks/pose.py
    python benchmarks/pose.py --memory           # a crowd of 100 persons in one image

HRNet-W32 beside timm's with the same head, ViTPose-B beside Hugging Face's with the same weights, inputs of 256 x 192.
`forward` and `training step` take a normalised batch; `image to keypoints` an image and the boxes of persons: crops,
network with folded norms, decoding, and coordinates in the image. Decoding (DARK) of 100 persons is beside a loop over
persons and keypoints in NumPy.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from backbones import machine, take_turns, training_step
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import vertebra
from vertebra.engine import checkpoint
from vertebra.images import frame_of, prepare
from vertebra.ops.heatmaps import dark_refined, gaussians, maxima
from vertebra.predict import Predictor
from vertebra.structures import Region, Target
from vertebra.tasks import Task

SIZE = (256, 192)
KEYPOINTS = 17
PERSONS = 8


class TimmHRNet(nn.Module):
    """timm's HRNet-W32 and a 1x1 convolution of its finest map."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("hrnet_w32", pretrained=False, features_only=True, feature_location="")
        channels, strides = self.backbone.feature_info.channels(), self.backbone.feature_info.reduction()
        self.index = strides.index(4)
        self.final = nn.Conv2d(channels[self.index], KEYPOINTS, 1)

    def forward(self, images: Tensor) -> Tensor:
        heatmaps: Tensor = self.final(self.backbone(images)[self.index])
        return heatmaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{machine()}; timm {timm.__version__}, transformers {transformers.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        if options.memory:
            crowd(Path(folder))
            return
        print("| model | what | ours, s | theirs, s | ratio |\n|---|---|---:|---:|---:|")
        ratios = []
        for name, ours, theirs, forward in (hrnet(), vitpose(Path(folder))):
            ratios.append(compare(name, ours, theirs, forward, Path(folder), options.repeats))
        print(f"geometric mean of image to keypoints: {math.sqrt(math.prod(ratios)):.2f}")
        decoding(options.repeats)


def hrnet() -> tuple[str, Task, nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    ours = vertebra.create("pose", backbone="hrnet_w32")
    return "HRNet-W32, beside timm", ours.eval(), TimmHRNet().eval(), lambda model, images: model(images)


def vitpose(folder: Path) -> tuple[str, Task, nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    config = transformers.VitPoseConfig(
        backbone_config=transformers.VitPoseBackboneConfig(out_features=["stage12"]),
        num_labels=KEYPOINTS,
        use_simple_decoder=True,
    )
    theirs = transformers.VitPoseForPoseEstimation(config).eval()
    theirs.save_pretrained(folder / "hf")
    ours = vertebra.create("pose", weights=folder / "hf" / "model.safetensors").eval()
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        worst = float((ours(images)[0] - theirs(images).heatmaps).abs().max())
    if worst > 1e-4:
        raise SystemExit(f"ViTPose: the heatmaps differ by {worst:.1e}")
    return "ViTPose-B, beside Hugging Face", ours, theirs, lambda model, batch: model(batch).heatmaps


def compare(
    name: str,
    ours: Task,
    theirs: nn.Module,
    forward: Callable[[nn.Module, Tensor], Tensor],
    folder: Path,
    repeats: int,
) -> float:
    """Prints the rows of a pair; returns the ratio of image to keypoints."""
    images = torch.randn(PERSONS, 3, *SIZE)
    with torch.inference_mode():
        row(name, f"forward of {PERSONS}", lambda: ours(images), lambda: forward(theirs, images), repeats)
    checkpoint.save(ours, folder / "ours.safetensors")
    predictor = Predictor(folder / "ours.safetensors", device="cpu")
    image, regions = crowd_image(PERSONS)
    processor = transformers.VitPoseImageProcessor()
    boxes = np.array([region.box for region in regions])
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    pixels = image.permute(1, 2, 0).numpy()

    def predict_ours() -> Any:
        frames = [frame_of((image.shape[1], image.shape[2]), predictor.task.preprocess, region) for region in regions]
        batch = torch.stack([prepare(image, predictor.task.preprocess, region) for region in regions])
        with torch.inference_mode():
            return predictor.task.infer(batch.contiguous(memory_format=torch.channels_last), frames)

    def predict_theirs() -> Any:
        inputs = processor(pixels, boxes=[xywh], return_tensors="pt")
        with torch.inference_mode():
            heatmaps = forward(theirs, inputs["pixel_values"])
        outputs = transformers.models.vitpose.modeling_vitpose.VitPoseEstimatorOutput(heatmaps=heatmaps)
        return processor.post_process_pose_estimation(outputs, boxes=[xywh])

    ratio = row(name, f"image to keypoints, {PERSONS} persons", predict_ours, predict_theirs, repeats)
    keypoints = torch.cat((torch.rand(PERSONS, KEYPOINTS, 2) * 190, torch.full((PERSONS, KEYPOINTS, 1), 2.0)), 2)
    targets = [Target(keypoints=points[None]) for points in keypoints]
    heatmaps, _ = gaussians(keypoints / 4, (SIZE[0] // 4, SIZE[1] // 4), 2.0)
    ours, theirs = ours.to(memory_format=torch.channels_last).train(), theirs.train()
    batch = images.contiguous(memory_format=torch.channels_last)
    row(
        name,
        f"training step of {PERSONS}",
        training_step(ours, lambda: ours.loss(batch, targets)["heatmap"]),
        training_step(theirs, lambda: mse_loss(forward(theirs, images), heatmaps)),
        max(3, repeats // 2),
    )
    return ratio


def decoding(repeats: int) -> None:
    """DARK for 100 persons, beside a loop over persons and keypoints."""
    points = torch.cat((torch.rand(100, KEYPOINTS, 2) * 40 + 4, torch.ones(100, KEYPOINTS, 1)), 2)
    heatmaps, _ = gaussians(points, (64, 48), 2.0, rounded=False, cut=False)
    heatmaps = heatmaps + 1e-3
    array = heatmaps.numpy()

    def ours() -> Tensor:
        return dark_refined(heatmaps, maxima(heatmaps)[0], 11)

    def theirs() -> np.ndarray:
        return np.array([[dark_of(heatmap) for heatmap in person] for person in array])

    worst = float(np.abs(ours().numpy() - theirs()).max())
    if worst > 1e-3:
        raise SystemExit(f"DARK: the keypoints differ by {worst:.1e} cells")
    row("DARK, 100 persons", "beside a loop in NumPy", ours, theirs, max(3, repeats // 2))


TAPS = np.exp(-(np.arange(-5, 6) ** 2) / 8).astype(np.float32)


def dark_of(heatmap: np.ndarray) -> np.ndarray:
    """The keypoint [2] x, y of one heatmap [h, w]."""
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    taps = TAPS / TAPS.sum()
    padded = np.pad(heatmap, 5)
    height, width = heatmap.shape
    rows = sum(tap * padded[i : i + height] for i, tap in enumerate(taps))
    smooth = sum(tap * rows[:, i : i + width] for i, tap in enumerate(taps))
    logs = np.log(np.maximum(smooth * (heatmap.max() / smooth.max()), 1e-10))
    location = np.array([x, y], np.float32)
    if not (1 < x < width - 2 and 1 < y < height - 2):
        return location
    dx, dy = 0.5 * (logs[y, x + 1] - logs[y, x - 1]), 0.5 * (logs[y + 1, x] - logs[y - 1, x])
    dxx = 0.25 * (logs[y, x + 2] - 2 * logs[y, x] + logs[y, x - 2])
    dyy = 0.25 * (logs[y + 2, x] - 2 * logs[y, x] + logs[y - 2, x])
    dxy = 0.25 * (logs[y + 1, x + 1] - logs[y - 1, x + 1] - logs[y + 1, x - 1] + logs[y - 1, x - 1])
    step = np.linalg.solve(np.array([[dxx, dxy], [dxy, dyy]]), np.array([dx, dy]))
    return location - step


def crowd_image(persons: int) -> tuple[Tensor, list[Region]]:
    """An image of 1280 x 720 pixels and the boxes of its persons."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (3, 720, 1280), np.uint8))
    x, y = rng.uniform(0, 1100, persons), rng.uniform(0, 450, persons)
    width, height = rng.uniform(40, 160, persons), rng.uniform(80, 260, persons)
    boxes = np.stack([x, y, x + width, y + height], 1)
    return image, [Region(tuple(box)) for box in boxes.tolist()]


def crowd(folder: Path) -> None:
    """Memory of the process for 16 persons of an image, and for 100, in batches of 16."""
    checkpoint.save(vertebra.create("pose", backbone="hrnet_w32"), folder / "ours.safetensors")
    predictor = Predictor(folder / "ours.safetensors", device="cpu")
    for persons in (16, 100):
        image, regions = crowd_image(persons)
        options = predictor._checked(16, 0.0, 0, 0.2, False, 1, endless=False)
        predictions = predictor._inferred([image] * persons, predictor.task.preprocess, options, False, regions)
        merged = predictor.task.merge_objects(predictions, (720, 1280))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(f"{persons} persons: peak {peak:.2f} GB of the process; {len(merged)} kept")


def row(name: str, what: str, ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> float:
    times = take_turns({"ours": ours, "theirs": theirs}, repeats)
    ratio = times["theirs"] / times["ours"]
    print(f"| {name} | {what} | {times['ours']:.3f} | {times['theirs']:.3f} | {ratio:.2f} |", flush=True)
    return ratio


if __name__ == "__main__":
    main()
