"""Folders of runs, changed before they are resumed."""

from __future__ import annotations

import contextlib
import io
import shutil
from functools import cache
from pathlib import Path
from random import Random

import torch
from tests.fuzz import configs, datasets, mutate
from tests.fuzz.sweep import Case, template_folder

FILES = ("config.yaml", "last.ckpt", "last.ckpt", "metrics.csv", "best.safetensors")


@cache
def trained() -> Path:
    """A run of one epoch, and its data beside it."""
    from vertebra.cli import main

    folder = template_folder() / "trained"
    datasets.write_photos(folder / "photos")
    (folder / "config.yaml").write_text(configs.CONFIG)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.chdir(folder):
        assert main(["train", "classification", "--config=config.yaml"]) == 0
    return folder


def change_state(rng: Random, path: Path) -> None:
    """Changes the tree in a file of torch.save."""
    state = torch.load(path, weights_only=True)
    for _ in range(rng.choice((1, 1, 3))):
        mutate.change_tree(rng, state, values=(*mutate.HOSTILE[:-1], torch.zeros(3), torch.full((2, 2), torch.nan)))
    torch.save(state, path)


def resumed(rng: Random, folder: Path) -> Case:
    shutil.copytree(trained(), folder, dirs_exist_ok=True)
    path = folder / "run" / rng.choice(FILES)
    kind = rng.choice(("content", "content", "content", "bytes", "place"))
    if kind == "place":
        mutate.change_place(rng, path)
    elif kind == "content" and path.suffix == ".ckpt":
        change_state(rng, path)
    elif kind == "content" and path.suffix in (".yaml", ".csv"):
        mutate.change_file(rng, path)
    else:
        path.write_bytes(mutate.change_bytes(rng, path.read_bytes()))
    return Case(["train", "--resume=run", f"--epochs={rng.choice((1, 2, 2))}"])


SURFACES = {"run": resumed}
