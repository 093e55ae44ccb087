"""Files that are whole or not there: the self-describing model file, and the state to resume from."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors.torch import save_file

import vertebra
from vertebra import tasks, weights
from vertebra.errors import VertebraError, first_line
from vertebra.files import replacing
from vertebra.structures import Preprocess


def save(task: tasks.Task, path: str | Path, **about: Any) -> None:
    """Writes the one file that `vertebra.load` needs: weights, and as JSON the model's options, classes, preprocessing,
    Vertebra's version and the further entries `about` (metrics, epoch, ...)."""
    description = {"version": vertebra.__version__, **task.describe(), **about}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in task.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary, {"vertebra": json.dumps(description), "format": "pt"})


def load(
    where: str | Path | weights.Checkpoint, *, device: torch.device | str | None = None
) -> tuple[tasks.Task, dict[str, Any]]:
    """The task in a file that `save` wrote (or in the folder that holds it), in eval mode, and its description.

    Args:
        device: where it runs; the fastest available if None.

    Raises:
        VertebraError: if the file is damaged, or is not one of ours.
    """
    file = weights.open_checkpoint(where)
    if file.about is None:
        raise VertebraError(
            f"{file.path} was not written by Vertebra, so its model is unknown: "
            "make one with vertebra.create(...) and fill it with .load(path)."
        )
    try:
        about = file.about
        plan = tasks.plan(about["task"], method=about["method"], classes=about["classes"], **about["model"])
        task = plan.build(Preprocess.from_dict(about["preprocess"]))
    except (KeyError, TypeError) as error:
        raise VertebraError(f"{file.path} describes its model in a way this version cannot read: {error}.") from error
    weights.load(task, file.state, weights.Report(str(file.path), "vertebra"))
    return task.to(_device(device)).eval(), about


def _device(name: torch.device | str | None) -> torch.device:
    """The named device; the fastest available if None."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise VertebraError(f"device {str(name)!r} is not to be had here: {first_line(error)}") from error


class SafeCheckpointIO(CheckpointIO):
    """Lightning's state for resuming: written whole or not at all, read without unpickling objects."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(path) as temporary:
            torch.save(dict(checkpoint), temporary)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise VertebraError(
                f"{path} holds Python objects that Vertebra did not write, and unpickling those could run code, so it "
                "was not loaded: start a new run, with --weights=best.safetensors if that is whole."
            ) from error
        except Exception as error:  # a damaged pickle can raise anything
            raise VertebraError(
                f"{path} is damaged ({first_line(error)}): start a new run, with --weights=best.safetensors "
                "if that is whole."
            ) from error

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
