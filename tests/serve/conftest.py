"""A tiny model of each kind, and the service of all of them."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

import vertebra
from vertebra import tasks
from vertebra.engine import checkpoint
from vertebra.predict import Predictor
from vertebra.serve.app import create_app
from vertebra.serve.limits import Limits
from vertebra.structures import KeypointSchema, Preprocess

BLOBS = Path(__file__).parents[1] / "predict" / "tasks"
SCHEMA = KeypointSchema(("left", "right"), ((0, 1),), (1, 0), (0.1, 0.1))
RECTANGLES = ((4, 4, 20, 15, 200), (25, 5, 45, 30, 141), (30, 35, 40, 45, 101))
"""x1, y1, x2, y2 and red value, which is the score times 256, and odd for the second class."""


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Predictors by name: `category`, `boxes`, `masks`, `keypoints`, `label_map` and `saliency_map`."""
    folder = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    networks = {
        "category": vertebra.create(
            "classification", backbone="resnet18", classes=("cat", "dog", "emu"), preprocess=Preprocess((32, 32))
        ),
        "label_map": vertebra.create(
            "semantic",
            backbone="resnet18",
            channels=8,
            classes=("sky", "sea", "sand"),
            preprocess=Preprocess((32, 32), resize="squash"),
        ),
        "saliency_map": vertebra.create(
            "saliency", backbone="resnet18", preprocess=Preprocess((32, 32), resize="squash")
        ),
    }
    weight = networks["category"].head.weight  # its last map is a single cell: only the sign of a class shows
    torch.nn.init.uniform_(weight[0], -1, 0)
    torch.nn.init.uniform_(weight[1], 0, 1)
    exact = Preprocess(
        (50, 200), resize="shortest", interpolation="nearest", divisor=1, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "__path__", [*tasks.__path__, str(BLOBS)])
        for module in ("vertebra.tasks.blobs", "vertebra.tasks.blobs.regions"):
            patch.delitem(sys.modules, module, raising=False)
        for kind in ("boxes", "masks", "keypoints"):
            networks[kind] = tasks.create(
                "blobs", classes=("even", "odd"), kind=kind, keypoints=SCHEMA, preprocess=exact
            )
        predictors = {}
        for name, network in networks.items():
            checkpoint.save(network, folder / name / "best.safetensors")
            predictors[name] = Predictor(folder / name, device="cpu")
    return predictors


@pytest.fixture(scope="session")
def photo():
    """The bytes of a PNG file of 50 x 60 pixels: RECTANGLES on black."""
    return png(drawn())


def drawn(rectangles=RECTANGLES, size=(50, 60)):
    """Rectangles on black, [H, W, 3]."""
    pixels = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2, red in rectangles:
        pixels[y1:y2, x1:x2, 0] = red
    return pixels


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def client(models):
    """Of a service of all models, started."""
    with TestClient(create_app(models, Limits(latency_ms=0))) as started:
        yield started
