"""Settings in a YAML file, of a training of one epoch."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.fuzz import datasets, mutate
from tests.fuzz.sweep import Case

CONFIG = """\
data:
  path: photos
  image_size: 32
  workers: 0
  batch_size: 4
model:
  backbone: vit_tiny_16
  backbone_options: {width: 8, depth: 1, heads: 1}
  dropout: 0.1
augment: {flip: 0.5}
epochs: 1
lr: 0.001
warmup: 0
seed: 0
device: cpu
output: run
"""
NUMBER = (
    r"epochs|lr|warmup|seed|data\.(image_size|batch_size)|model\.dropout|augment\.flip|model\.backbone_options\.\w+"
)
LARGE = [value for value in mutate.NUMBERS if value > 1000]
"""A network of so many parts is built if the user wants one."""


def config(rng: Random, folder: Path) -> Case:
    datasets.write_photos(folder / "photos")
    text, change = mutate.change_yaml(rng, CONFIG)
    while change and change.path.startswith("model.backbone_options") and change.value in LARGE:
        text, change = mutate.change_yaml(rng, CONFIG)
    raw = text.encode(errors="surrogatepass")
    (folder / "config.yaml").write_bytes(mutate.change_bytes(rng, raw) if rng.random() < 0.1 else raw)
    wrong = change is not None and change.is_no_number(NUMBER) and change.value is not None
    words = ["train", "classification", "--config=config.yaml", "--output=run"]  # and nowhere else
    return Case(words, f"{change.path} is no number" if wrong else "")


SURFACES = {"config": config}
