"""Which stages of a task's trunk are trained: fewer from the start, or one more every few epochs."""

from __future__ import annotations

from torch import nn

from vertebra.engine.settings import Settings
from vertebra.errors import VertebraError
from vertebra.tasks import Task


class Freezing:
    """Freezes the first `freeze` stages for good and, with `unfreeze_every`, the others until their epoch.

    The stages are unfrozen from the output to the input, one every `unfreeze_every` epochs, the first after that many
    epochs of the head alone; the norms of a frozen stage keep their statistics. It depends on the epoch alone, so a run
    that is resumed goes on as it was.

    Source: gradual unfreezing, ULMFiT, arXiv:1801.06146, section 3.3.

    Raises:
        VertebraError: if the trunk has fewer stages than are to be frozen.
    """

    def __init__(self, task: Task, settings: Settings) -> None:
        self.stages = task.parameter_stages()
        self.every = settings.unfreeze_every
        count = len(self.stages)
        if isinstance(settings.freeze, int) and settings.freeze > count:
            name = getattr(task.config, "backbone", task.method)
            raise VertebraError(
                f"freeze is {settings.freeze}, and {name} has {count} stages: give 0 to {count}, or all."
            )
        self.frozen = count if settings.freeze == "all" else int(settings.freeze)
        for layer in self._layers(0, self.frozen):
            layer.requires_grad_(False)
        # Kept only where they are needed: of a model that is divided among processes they are no longer its parameters.
        self.parameters = [
            [p for layer in stage for p in layer.parameters() if p.requires_grad] for stage in self.stages if self.every
        ]

    def start(self, epoch: int) -> None:
        """Before the epoch, counted from 0; after whatever puts the task into training mode."""
        count = len(self.stages)
        frozen = max(self.frozen, count - epoch // self.every) if self.every else self.frozen
        for layer in self._layers(0, frozen):
            layer.eval()
        if not self.every:
            return
        for layer in self._layers(frozen, count):
            layer.train()
        for i in range(self.frozen, count):
            for parameter in self.parameters[i]:
                parameter.requires_grad_(i >= frozen)

    def _layers(self, start: int, end: int) -> list[nn.Module]:
        return [layer for stage in self.stages[start:end] for layer in stage]
