"""FSDP2: parameters, gradients and the optimiser's state of a run divided among its processes.

Its checkpoints are those of a run on one process. Source: torch.distributed.fsdp.fully_shard, and Lightning's
ModelParallelStrategy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm

from vertebra.engine import state
from vertebra.engine.settings import Settings
from vertebra.errors import VertebraError
from vertebra.tasks import Task


class Sharded(ModelParallelStrategy):
    """FSDP2 on `processes` processes. States are assembled in the memory of the first one to be written."""

    def __init__(self, processes: int, timeout: timedelta) -> None:
        super().__init__(
            data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout
        )

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return whole(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        # Lightning's numbers the parameters in the order of the model instead of the optimiser's groups.
        content = optimizer.state_dict()
        return {**content, "state": {number: whole(entry) for number, entry in content["state"].items()}}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        content = state.load(Path(self.broadcast(checkpoint_path)), mapped=True)
        assert self.lightning_module is not None
        fill(self.lightning_module.state_dict(), content["state_dict"])
        for optimizer, kept in zip(self.optimizers, content["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            entries = {
                number: {name: _like(value, parameters[number]) for name, value in entry.items()}
                for number, entry in kept["state"].items()
            }
            optimizer.load_state_dict({**kept, "state": entries})
        return content


def check(settings: Settings, processes: int) -> None:
    """Raises VertebraError for settings that do not go together with strategy fsdp."""
    if settings.strategy != "fsdp":
        return
    if processes == 1:
        raise VertebraError("strategy fsdp divides a model among several processes, and this run has one: choose ddp.")
    without = {
        "ema": "the average is of whole weights",
        "teacher": "the distillation calls parts of the model by themselves",
        "unfreeze_every": "which parameters have gradients must not change",
    }
    for name, reason in without.items():
        if getattr(settings, name):
            raise VertebraError(
                f"strategy fsdp works without {name}, because {reason}: leave {name} out, or choose ddp."
            )
    if settings.precision == "16-mixed":
        raise VertebraError("strategy fsdp works without the loss scaling of precision 16-mixed: choose bf16-mixed.")


def check_task(task: Task, device: torch.device) -> None:
    """Raises VertebraError for a model that cannot be divided among processes on a kind of device."""
    if task.unused_parameters:
        raise VertebraError(
            f"strategy fsdp needs a gradient of every parameter in every step, which {task.task_name} does not give: "
            "choose ddp."
        )
    if device.type == "cpu" and any(isinstance(module, _BatchNorm) for module in task.modules()):
        raise VertebraError(
            "strategy fsdp synchronises batch norm on GPUs alone: on a CPU choose another norm layer or backbone, or "
            "strategy ddp."
        )


def shard(task: Task, mesh: DeviceMesh, device: torch.device) -> None:
    """Divides a task's tensors among the processes of a mesh, in place; those of the first process are taken.

    On the others, its parameters may be on the device `meta`.
    """
    if device.type != "cpu":
        nn.SyncBatchNorm.convert_sync_batchnorm(task)
    task.to(memory_format=torch.contiguous_format)  # FSDP2 divides no others
    first = distributed.get_rank() == 0
    values = _tensors(task) if first else {}
    counts = Counter(map(type, task.parameter_layers()))
    for layer in task.parameter_layers():
        if counts[type(layer)] > 1 and type(layer).forward is not nn.ModuleList.forward:  # the blocks of the trunk
            fully_shard(layer, mesh=mesh)
    module = type(task).__module__
    fully_shard(task, mesh=mesh)
    type(task).__module__ = module  # it has made a class of its own, and the task's name is that of its module
    for method in ("loss", "infer"):
        register_fsdp_forward_method(task, method)
    if not first:
        task.to_empty(device=device)
    for name, tensor in _tensors(task).items():
        value = values.pop(name).to(device) if first else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        if isinstance(tensor, DTensor):
            tensor.copy_(distribute_tensor(value, tensor.device_mesh, tensor.placements))
        else:
            distributed.broadcast(value, 0)
            tensor.copy_(value)


def whole(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors put together from all processes, on the CPU of the first; the others, which have to call it too, get
    none of those that are divided."""
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    result: dict[str, Any] = {}
    for name, value in tensors.items():
        if isinstance(value, DTensor):
            value = value.full_tensor().cpu()
            if not first:
                continue
        result[name] = value
    return result


def fill(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Gives tensors, which may be divided among processes, the whole values of their names, in place."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(_like(values[name], tensor))


def _like(value: Any, tensor: Tensor) -> Any:
    """This process' part of a value, where it is a tensor of the shape of a divided one."""
    if not isinstance(tensor, DTensor) or not isinstance(value, Tensor) or value.shape != tensor.shape:
        return value
    value = value.to(tensor.device)
    return distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The values of a module's parameters and buffers by name."""
    return {name: tensor.detach() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
