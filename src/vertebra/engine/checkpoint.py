"""The self-describing model file, which is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import vertebra
from vertebra import options, tasks, weights
from vertebra.engine.devices import find_one
from vertebra.errors import VertebraError
from vertebra.files import replacing
from vertebra.nn.meta import build_on_meta, build_to_fill
from vertebra.structures import Preprocess
from vertebra.tasks import multi
from vertebra.tasks.loading import naming
from vertebra.tasks.multi import MultiTask
from vertebra.weights import description
from vertebra.weights.fetch import metadata
from vertebra.weights.locate import locate


def save(task: tasks.Task, path: str | Path, state: Mapping[str, Tensor] | None = None, **about: Any) -> None:
    """Writes the one file that `vertebra.load` needs: weights, and as JSON the model's options, classes, preprocessing,
    Vertebra's version and the further entries `about` (metrics, epoch, ...); `state` in place of the task's own."""
    description = {"version": vertebra.__version__, **task.describe(), **about}
    tensors = task.state_dict() if state is None else state
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(state, temporary, {"vertebra": json.dumps(description), "format": "pt"})


def load(
    where: str | Path | weights.Checkpoint,
    *,
    device: torch.device | str | None = None,
    head: str | None = None,
    model: Mapping[str, Any] | None = None,
) -> tuple[tasks.Task, dict[str, Any]]:
    """The task in a file that `save` wrote (or in the folder that holds it), in eval mode, and its description.

    Args:
        device: where it runs, as `vertebra.load` takes it.
        head: of a file of several heads, the one that is taken out.
        model: adjustable options in place of those that it was saved with.

    Raises:
        VertebraError: if the file is damaged, is not one of ours, or has no such head, or an option is refused.
    """
    if head is not None:
        heads, about = load_heads(where, device=device, models={head: model or {}})
        return heads.take_out(head), about["heads"][head]
    file, about = _opened(where)
    if "heads" in about:
        raise VertebraError(
            f"{file.path} has the heads {', '.join(about['heads'])}: take one out first, with "
            f"`vertebra export {file.path} --head={next(iter(about['heads']), 'NAME')} --save=FILE.safetensors`."
        )
    about = _with_options(about, model)
    plan = _plan(about, file.path)
    preprocess = Preprocess.from_dict(about["preprocess"])
    empty = plan.build_on_meta(file, preprocess)
    new = weights.load(empty, file.state, weights.Report(str(file.path), "vertebra")).new
    task = build_to_fill(lambda: plan.build(preprocess), empty, new)
    weights.load(task, file.state, weights.Report(str(file.path), "vertebra"))
    return task.to(find_one(device)).eval(), about


def has_heads(where: str | Path) -> bool:
    """Whether a checkpoint is of several heads over one backbone; False of what is absent or no safetensors file."""
    try:
        path = locate(where)
    except VertebraError:
        return False
    if path.suffix != ".safetensors":
        return False
    text = metadata(path).get("vertebra")
    return text is not None and "heads" in description.parse(text, path)


def load_heads(
    where: str | Path | weights.Checkpoint,
    *,
    device: torch.device | str | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[MultiTask, dict[str, Any]]:
    """As `load`, of a checkpoint of several heads; the entry `heads` of its description has that of each head.

    `models` has adjustable options by head.

    Raises:
        VertebraError: if the file is damaged, or is of a model without heads.
    """
    file, about = _opened(where)
    if not about.get("heads"):
        raise VertebraError(f"{file.path} has no heads: it is of one model for {about['task']}.")
    heads = {name: _with_options(head, (models or {}).get(name)) for name, head in about["heads"].items()}
    about = {**about, "heads": heads}
    plans = {name: _plan(head, file.path) for name, head in about["heads"].items()}
    preprocess = {name: Preprocess.from_dict(head["preprocess"]) for name, head in about["heads"].items()}
    share_necks = about["model"].get("share_necks", False)  # earlier versions did not
    build = partial(multi.build, plans, preprocess, share_necks=share_necks)
    empty = build_on_meta(build, file.state, file.path)
    new = weights.load(empty, file.state, weights.Report(str(file.path), "vertebra")).new
    task = build_to_fill(build, empty, new)
    weights.load(task, file.state, weights.Report(str(file.path), "vertebra"))
    task.origins = {name: {"data": head["data"]} for name, head in about["heads"].items() if "data" in head}
    return task.to(find_one(device)).eval(), about


def _opened(where: str | Path | weights.Checkpoint) -> tuple[weights.Checkpoint, dict[str, Any]]:
    """A checkpoint and its description. Raises VertebraError if it is not one of ours."""
    file = weights.open_checkpoint(where)
    if file.about is None:
        raise VertebraError(
            f"{file.path} was not written by Vertebra, so its model is unknown: "
            "make one with vertebra.create(...) and fill it with .load(path)."
        )
    return file, file.about


def _with_options(about: dict[str, Any], model: Mapping[str, Any] | None) -> dict[str, Any]:
    """A description with adjustable options in place of its own."""
    if not model:
        return about
    options.check_adjustable(tasks.find(about["task"], about["method"]).Config, model)
    return {**about, "model": {**about["model"], **model}}


def described(about: Mapping[str, Any], path: Path, size: int) -> tasks.Task:
    """The task of a description, in eval mode on the device `meta`: without weights.

    Args:
        about: as `save` writes it, checked.
        path: the file that it is of, for messages.
        size: of the weights that the file holds, in bytes, which bound that of the model.

    Raises:
        VertebraError: if it cannot be built, or is far larger than the file.
    """
    file = weights.Checkpoint(path, {"weights": torch.empty(size, dtype=torch.uint8, device="meta")})
    return _plan(about, path).build_on_meta(file, Preprocess.from_dict(about["preprocess"])).eval()


def _plan(about: Mapping[str, Any], path: Path) -> tasks.Plan:
    with naming(path):
        if missing := [name for name in ("method", "classes") if not about.get(name)]:
            raise VertebraError(f"its description has no {missing[0]}, so its model is not known as a whole.")
        tasks.find(about["task"], about["method"])
        tasks.check_options(about["task"], about["method"], about["model"])
        return tasks.plan(about["task"], method=about["method"], classes=about["classes"], **about["model"])
