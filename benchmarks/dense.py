"""Our segmenters beside their originals: same weights where a peer has the same model, in one process, in turns.

    python benchmarks/dense.py                   # ratios above 1 are in our favour
    python benchmarks/dense.py fcn --repeats 9   # one of upernet, deeplabv3, fcn, semantic_fpn
    python benchmarks/pose.py                    # poses
    python benchmarks/dense.py --memory          # sliding windows over 4096 x 4096, and an evaluation of 1,000 images

UperNet with Swin-T beside Hugging Face's, DeepLabV3 and FCN with ResNet-50 beside torchvision's, Semantic FPN with
ResNet-50 beside Segmentation Models PyTorch's FPN, which has weights of its own. `forward` and `training step` take a
normalised batch; `prediction` one as Vertebra predicts it, with folded norms, to a label map of the image's size;
`JPEG to label map` reads, resizes and normalises a file too.
"""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from backbones import machine, take_turns, training_step
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision.io import ImageReadMode, decode_image
from torchvision.models import segmentation
from torchvision.transforms.v2 import functional

import vertebra
from vertebra import kinds
from vertebra.data.catalogue import Sample
from vertebra.data.label_maps import LabelMap, LabelTable
from vertebra.engine import checkpoint
from vertebra.engine.evaluate import evaluate
from vertebra.ledger.fabricate import fabricate_state
from vertebra.nn.fold import fold
from vertebra.predict import Predictor
from vertebra.structures import Frame, Preprocess, Target
from vertebra.tasks import Task

CLASSES = 21
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Pair:
    """A model of ours and its peer."""

    name: str
    peer: str
    ours: Task
    theirs: nn.Module
    logits: Callable[[nn.Module, Tensor], Tensor]
    """[B, CLASSES, H, W] of a batch, from `theirs`."""
    same: bool = True
    """Whether both have the same weights."""
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    """The training loss of `theirs`; the cross-entropy of `logits` if None."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["upernet", "deeplabv3", "fcn", "semantic_fpn"])
    parser.add_argument("--size", type=int, default=512, help="side of the square input")
    parser.add_argument("--image", type=int, nargs=2, default=(1024, 1024), help="height and width of the JPEG file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{machine()}; torch {torch.__version__}, torchvision {torchvision.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.memory:
            for classes in (CLASSES, 150):  # each in a process of its own, whose memory is measured
                process = multiprocessing.get_context("spawn").Process(target=sliding_window, args=(folder, classes))
                process.start()
                process.join()
            evaluation(folder)
            return
        print(f"{options.size} x {options.size}, float32, {options.threads} threads; medians of {options.repeats}\n")
        print("| model | what | ours, s | peer, s | ratio |")
        print("|---|---|---:|---:|---:|")
        ratios: dict[str, list[float]] = {}
        makers = {make.__name__: make for make in (upernet, deeplabv3, fcn, semantic_fpn)}
        for model in options.models:
            for what, ratio in compare(makers[model](folder, options.size), folder, options).items():
                ratios.setdefault(what, []).append(ratio)
        for what, values in ratios.items():
            print(f"| geometric mean | {what} | | | {math.prod(values) ** (1 / len(values)):.2f} |")


# -- the models


def upernet(folder: Path, size: int) -> Pair:
    import transformers

    swin = transformers.SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])  # type: ignore[call-arg]
    config = transformers.UperNetConfig(backbone_config=swin, num_labels=CLASSES)  # type: ignore[call-arg]
    theirs = transformers.UperNetForSemanticSegmentation(config)
    return Pair(
        f"UperNet, Swin-T, beside transformers {transformers.__version__}",
        "hf",
        filled(theirs, folder, size),
        theirs,
        lambda model, images: model(pixel_values=images).logits,
        loss=lambda model, images, labels: model(pixel_values=images, labels=labels).loss,
    )


def deeplabv3(folder: Path, size: int) -> Pair:
    return of_torchvision("DeepLabV3, ResNet-50", segmentation.deeplabv3_resnet50, folder, size)


def fcn(folder: Path, size: int) -> Pair:
    return of_torchvision("FCN, ResNet-50", segmentation.fcn_resnet50, folder, size)


def of_torchvision(name: str, make: Callable[..., nn.Module], folder: Path, size: int) -> Pair:
    theirs = make(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        output = model(images)
        return cross_entropy(output["out"], labels, ignore_index=255) + 0.5 * cross_entropy(
            output["aux"], labels, ignore_index=255
        )

    return Pair(
        f"{name}, beside torchvision {torchvision.__version__}",
        "torchvision",
        filled(theirs, folder, size),
        theirs,
        lambda model, images: model(images)["out"],
        loss=loss,
    )


def semantic_fpn(folder: Path, size: int) -> Pair:
    import segmentation_models_pytorch as smp

    ours = vertebra.create(
        "semantic",
        method="semantic_fpn",
        backbone="resnet50",
        classes=CLASSES,
        preprocess=preprocess(size),
        aux={"weight": 0.0},
        neck_output=False,  # the peer has neither
    )
    theirs = smp.FPN("resnet50", encoder_weights=None, classes=CLASSES)
    return Pair(
        f"Semantic FPN, ResNet-50, beside Segmentation Models PyTorch {smp.__version__}",
        "smp",
        ours.eval(),
        theirs.eval(),
        lambda model, images: model(images),
        same=False,
    )


def preprocess(size: int) -> Preprocess:
    return Preprocess((size, size), resize="squash", mean=MEAN, std=STD)


def filled(theirs: Any, folder: Path, size: int) -> Task:
    """Our model with the weights that are fabricated for the peer."""
    rows = [(name, list(tensor.shape)) for name, tensor in theirs.state_dict().items()]
    state = fabricate_state(rows, 1.0)
    theirs.load_state_dict(state)
    theirs.eval()
    if hasattr(theirs, "save_pretrained"):  # Hugging Face's files have other names than the modules
        theirs.save_pretrained(folder)
        file = folder / "model.safetensors"
    else:
        torch.save(state, file := folder / "weights.pth")
    return vertebra.create("semantic", weights=file, preprocess=preprocess(size)).eval()


# -- speed


def compare(pair: Pair, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Prints the rows of a pair; returns the ratios."""
    size, repeats = options.size, options.repeats
    images = torch.randn(2, 3, size, size)
    labels = torch.randint(0, CLASSES, (2, size, size))
    ours, theirs = pair.ours, pair.theirs
    check(pair, images)
    ratios = {}
    with torch.inference_mode():
        runs: dict[str, Callable[[], Any]] = {
            "ours": lambda: ours(images),
            "theirs": lambda: pair.logits(theirs, images),
        }
        ratios["forward of 2 images"] = row(pair, "forward of 2 images", runs, repeats)
    file = folder / "image.jpg"
    high, wide = options.image
    coarse = torch.rand(3, high // 32, wide // 32)
    pixels = interpolate(coarse[None], (high, wide), mode="bicubic")[0].clamp(0, 1)
    Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy()).save(file, quality=90)
    checkpoint.save(ours, folder / "ours.safetensors")
    predictor = Predictor(folder / "ours.safetensors", device="cpu")
    ready: Any = fold(copy.deepcopy(ours)).to(memory_format=torch.channels_last)
    frame = Frame((high, wide), (size, size))

    def predict_theirs(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            return interpolate(pair.logits(theirs, batch), (high, wide), mode="bilinear").argmax(1).to(torch.uint8)

    def predict_ours(batch: Tensor) -> Any:
        with torch.inference_mode():
            return ready.infer(batch.contiguous(memory_format=torch.channels_last), [frame])

    one = images[:1]
    runs = {"ours": lambda: predict_ours(one), "theirs": lambda: predict_theirs(one)}
    ratios["prediction"] = row(pair, "prediction", runs, repeats)
    read = reader(pair.peer, size)
    runs = {"ours": lambda: predictor.predict([file]), "theirs": lambda: predict_theirs(read(file))}
    ratios["JPEG to label map"] = row(pair, "JPEG to label map", runs, repeats)
    ratios["training step of 2 images"] = training(pair, images, labels, max(3, repeats // 2))
    return ratios


def check(pair: Pair, images: Tensor) -> None:
    """Raises if the logits differ: a benchmark of different models would mean nothing."""
    if not pair.same:
        return
    with torch.inference_mode():
        ours, theirs = pair.ours(images)[0], pair.logits(pair.theirs, images)
    worst = float((ours - theirs).abs().max() / theirs.std())
    if worst > 1e-3:
        raise SystemExit(f"{pair.name}: the logits differ by {worst:.1e} deviations")


def reader(peer: str, size: int) -> Callable[[Path], Tensor]:
    """File -> [1, 3, size, size]: by Hugging Face's processor, or as torchvision's documentation does it."""
    if peer == "hf":
        import transformers

        processor = transformers.SegformerImageProcessor(size={"height": size, "width": size})
        return lambda file: processor(Image.open(file), return_tensors="pt")["pixel_values"]
    return lambda file: functional.normalize(
        functional.to_dtype(
            functional.resize(decode_image(str(file), ImageReadMode.RGB)[None], [size, size], antialias=True),
            torch.float32,
            scale=True,
        ),
        list(MEAN),
        list(STD),
    )


def training(pair: Pair, images: Tensor, labels: Tensor, repeats: int) -> float:
    ours, theirs = pair.ours.to(memory_format=torch.channels_last).train(), pair.theirs.train()
    batch = images.contiguous(memory_format=torch.channels_last)
    targets = [Target(semantic=label.to(torch.uint8), size=tuple(label.shape)) for label in labels]

    def loss_theirs() -> Tensor:
        if pair.loss is not None:
            return pair.loss(theirs, images, labels)
        return cross_entropy(pair.logits(theirs, images), labels, ignore_index=255)

    runs = {
        "ours": training_step(ours, lambda: torch.stack(list(ours.loss(batch, targets).values())).sum()),
        "theirs": training_step(theirs, loss_theirs),
    }
    return row(pair, "training step of 2 images", runs, repeats)


def row(pair: Pair, what: str, runs: dict[str, Callable[[], Any]], repeats: int) -> float:
    times = take_turns(runs, repeats)
    ratio = times["theirs"] / times["ours"]
    print(f"| {pair.name} | {what} | {times['ours']:.3f} | {times['theirs']:.3f} | {ratio:.2f} |", flush=True)
    return ratio


# -- memory


def sliding_window(folder: Path, classes: int, side: int = 4096) -> None:
    """A square image by windows of 512 pixels, UperNet with Swin-T."""
    model = vertebra.create("semantic", backbone="swin_tiny", classes=classes, preprocess=preprocess(512))
    checkpoint.save(model, folder / "swin.safetensors")
    del model
    predictor = Predictor(folder / "swin.safetensors", device="cpu")
    file = folder / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(file)
    before = peak()
    (prediction,) = predictor.predict([file], tile=512)
    print(
        f"{side} x {side} by windows of 512, {classes} classes: peak {peak():.2f} GB of the process, {before:.2f} GB "
        f"before; {prediction}"
    )


def evaluation(folder: Path, count: int = 1000) -> None:
    """Images of 2 megapixels; the peak of the process after 100 of them, and after all."""
    size = (1200, 1700)
    model = vertebra.create(
        "semantic",
        method="fcn",
        backbone="efficientnetv2_b0",
        classes=CLASSES,
        preprocess=preprocess(128),
    ).eval()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / "image.jpg")
    Image.fromarray(rng.integers(0, CLASSES, (12, 17), np.uint8)).resize(size[::-1], 0).save(folder / "map.png")
    table = LabelTable(tuple(map(str, range(CLASSES))), {i: i for i in range(CLASSES)})
    samples = [
        Sample(
            folder / "image.jpg", Target(path=str(folder / "image.jpg")), label_map=LabelMap(folder / "map.png", table)
        )
    ] * count
    options = kinds.find(model.kind).metric_options({}, None)  # type: ignore[arg-type]
    for part in (count // 10, count):
        evaluate(model, samples[:part], batch_size=4, workers=0, metric_options=options)
        print(f"evaluation of {part:,} images of {size[0]} x {size[1]}: peak {peak():.2f} GB of the process")


def peak() -> float:
    """Most memory that the process has had so far, in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
