"""Several tasks over one backbone: images pass the backbone once, and every head reads its maps, those with the same
neck through one."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from vertebra import options
from vertebra.backbones import Backbone
from vertebra.errors import VertebraError, one_of, shown
from vertebra.metrics.heads import MEAN, HeadMetrics
from vertebra.necks import FPN, HRFPN, SimplePyramid
from vertebra.nn.meta import on_meta
from vertebra.structures import Frame, Prediction, Preprocess
from vertebra.tasks import Plan
from vertebra.tasks.base import BackboneTask

NAME = "multi"
"""What stands in place of a task's name."""
TRUNK_OPTIONS = {"embedding": True, "level_norms": True}
"""Options of a backbone that all heads can share: it has the parts that any of them needs."""
NECKS = (FPN, HRFPN, SimplePyramid)
"""What heads can share besides the backbone."""
_HEAD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Config:
    """The shared backbone, and what each head is."""

    backbone: str
    backbone_options: dict[str, Any] = field(default_factory=dict)
    share_necks: bool = True
    heads: dict[str, Any] = field(default_factory=dict)
    """Task, method and options of each head, plain."""


class MultiTask(BackboneTask):
    """One backbone and a head for each of several tasks: [B, C, H, W] -> the predictions of every head.

    A head is a model of its task whose `backbone` is this one's; here its tensors stand once, under `backbone.`, and
    those of the heads under `heads.NAME.`.

    Args:
        heads: models by name, built over one backbone, see `build`; they are used up: a head is no longer a model by
            itself, `take_out` makes one of it.
        share_necks: whether heads whose necks are built alike, with the same channels and norms over the same levels,
            have one; its tensors are those of the first of them that a checkpoint has filled.

    Raises:
        VertebraError: if there is none, a name cannot be used, or two of the heads want other inputs.
    """

    unused_parameters = True  # of heads that take no part in a step, and norms that no head reads

    def __init__(self, heads: Mapping[str, BackboneTask], *, share_necks: bool = True) -> None:
        check_names(heads)
        first, *_ = heads.values()
        for name, head in heads.items():
            assert head.backbone is first.backbone, "built over one backbone"
            _check_inputs(next(iter(heads)), first.preprocess, name, head.preprocess)
        described = {
            name: {"task": head.task_name, "method": head.method, "model": options.plain(head.config)}
            for name, head in heads.items()
        }
        config = Config(first.config.backbone, first.config.backbone_options, share_necks, described)
        classes = [f"{name}: {label}" for name, head in heads.items() for label in head.classes]
        super().__init__(config, classes, first.preprocess)
        self.backbone = first.backbone
        self.heads = nn.ModuleDict(heads)
        self.monitor = MEAN  # type: ignore[misc]
        self.origins: dict[str, Mapping[str, Any]] = {}
        """Further entries of the description of each head, such as the data that it was trained on."""
        for head in heads.values():
            del head._modules["backbone"]
            head.__dict__["backbone"] = self.backbone  # not registered, so that its tensors stand once
        if share_necks:
            _share_necks(list(heads.values()))

    @property
    def task_name(self) -> str:
        return NAME

    def head(self, name: str) -> BackboneTask:
        """A head by its name.

        Raises:
            VertebraError: if there is none of that name.
        """
        one_of("head", name, self.heads.keys())
        head: BackboneTask = self.heads[name]  # type: ignore[assignment]
        return head

    @property
    def shared_necks(self) -> list[nn.Module]:
        """The necks that several heads read."""
        shared = [part for head in self.heads.values() for part in _unregistered(head).values()]
        return list({id(part): part for part in shared if part is not self.backbone}.values())

    def infer_heads(
        self, images: Tensor, frames: Sequence[Frame], *, merging: bool = False
    ) -> dict[str, list[Prediction]]:
        """The predictions of every head, from one pass through the backbone; arguments as for `Task.infer`."""
        with self.backbone.sharing([images]), contextlib.ExitStack() as stack:
            for neck in self.shared_necks:
                stack.enter_context(_once(neck))
            return {name: self.head(name).infer(images, frames, merging=merging) for name in self.heads}

    def metrics(self, **options: Any) -> HeadMetrics:  # type: ignore[override]
        heads = {name: self.head(name) for name in self.heads}
        return HeadMetrics(
            {name: head.metrics() for name, head in heads.items()},
            {name: head.monitor for name, head in heads.items()},
        )

    def take_out(self, name: str) -> BackboneTask:
        """A head over the backbone as a model of its task, which shares its tensors with this one.

        Raises:
            VertebraError: if there is none of that name.
        """
        head = copy.copy(self.head(name))
        shared = _unregistered(head)
        for part in shared:
            del head.__dict__[part]
        head._modules = {**shared, **head._modules}
        return head

    def describe(self) -> Mapping[str, Any]:
        heads = {name: {**self.head(name).describe(), **self.origins.get(name, {})} for name in self.heads}
        trunk = {name: getattr(self.config, name) for name in ("backbone", "backbone_options", "share_necks")}
        return {"task": NAME, "model": trunk, "preprocess": options.plain(self.preprocess), "heads": heads}


def _unregistered(head: nn.Module) -> dict[str, nn.Module]:
    """The parts that a head reads and that are not its own, by name."""
    return {name: part for name, part in vars(head).items() if isinstance(part, nn.Module)}


def _share_necks(heads: Sequence[BackboneTask]) -> None:
    """Has heads whose necks are alike read one of them."""
    places = [(head, name) for head in heads for name, part in head.named_children() if isinstance(part, NECKS)]
    groups: list[list[tuple[BackboneTask, str]]] = []
    for head, name in places:
        form = _form(getattr(head, name))
        alike = [group for group in groups if _form(getattr(*group[0])) == form]
        if alike:
            alike[0].append((head, name))
        else:
            groups.append([(head, name)])
    for (first, place), *others in groups:
        filled = [getattr(head, name) for head, name in ((first, place), *others) if _is_filled(head, name)]
        neck = (filled or [getattr(first, place)])[0]
        first._modules[place] = neck  # where its tensors stand must not depend on the checkpoint that filled it
        for head, name in others:
            del head._modules[name]
            head.__dict__[name] = neck


def _form(neck: nn.Module) -> tuple[Any, ...]:
    """Equal for necks that compute the same, but for their weights."""
    settings = {name: value for name, value in vars(neck).items() if not name.startswith("_") and name != "training"}
    return type(neck), repr(neck), sorted(settings.items())


def _is_filled(head: BackboneTask, name: str) -> bool:
    """Whether a part of a head has the weights of a checkpoint."""
    return head.report is not None and not any(new.startswith(f"{name}.") for new in head.report.new)


@contextlib.contextmanager
def _once(neck: nn.Module) -> Iterator[None]:
    """A context in which maps pass a neck once, however often it is given them. They are known by identity."""
    inner = neck.forward
    passed: dict[tuple[int, ...], tuple[Sequence[Tensor], Any]] = {}

    def forward(maps: Sequence[Tensor]) -> Any:
        key = tuple(map(id, maps))
        if key not in passed:
            passed[key] = maps, inner(maps)  # the maps too, so that no other tensors have their identity
        return passed[key][1]

    neck.forward = forward
    try:
        yield
    finally:
        del neck.forward


def check_names(heads: Mapping[str, Any]) -> None:
    """Raises VertebraError if there are no heads, or one has a name that cannot be that of a folder and of metrics."""
    if not heads:
        raise VertebraError("there are no heads; at least one is needed, such as heads.boxes.task=detection.")
    for name in heads:
        if not isinstance(name, str) or not _HEAD.fullmatch(name):
            raise VertebraError(
                f"a head is named {shown(name)}; a name begins with a letter and has letters, digits, - and _ alone, "
                "40 at most."
            )
        if name == MEAN or hasattr(nn.ModuleDict, name):
            raise VertebraError(f"a head is named {name!r}, which has another meaning here: choose another name.")


def build(plans: Mapping[str, Plan], preprocess: Mapping[str, Preprocess], *, share_necks: bool = True) -> MultiTask:
    """Builds the heads over one backbone, and fills it from the checkpoint of the plans, if there is one.

    Args:
        plans: by head; their backbone and its options, TRUNK_OPTIONS among them, are the same.
        preprocess: by head.
        share_necks: as for MultiTask.

    Raises:
        VertebraError: if a method has no backbone, two build it in different ways, or want other inputs.
    """
    check_names(plans)
    first = next(iter(plans))
    for name, plan in plans.items():
        if not issubclass(plan.module.MODEL, BackboneTask):
            raise VertebraError(f"head {name!r} has no backbone, so it cannot share one.")
        _check_inputs(first, preprocess[first], name, preprocess[name])
    alone = {name: _backbone_alone(plan, preprocess[name]) for name, plan in plans.items()}
    _check_same(alone[first], alone)
    heads: dict[str, BackboneTask] = {}
    backbone: Backbone | None = None
    for name, plan in plans.items():
        head = plan.build(preprocess[name], backbone)
        assert isinstance(head, BackboneTask)
        heads[name], backbone = head, head.backbone
    assert backbone is not None
    _check_same(backbone, alone)  # a method may have changed it
    return MultiTask(heads, share_necks=share_necks)


def _check_same(shared: Backbone, alone: Mapping[str, Backbone]) -> None:
    """Raises VertebraError if a head by itself would build another backbone than the shared one."""
    for name, other in alone.items():
        if difference := _difference(shared, other):
            rest = ", ".join(key for key in alone if key != name)
            raise VertebraError(
                f"head {name!r} cannot share the backbone with {rest}: by itself it would build one with {difference}. "
                "Choose another method, or the same options."
            )


def _backbone_alone(plan: Plan, preprocess: Preprocess) -> Backbone:
    """The backbone that a head would build if there were no others, without data."""
    task = on_meta(lambda: plan.module.MODEL(plan.config, plan.classes, preprocess))
    assert isinstance(task, BackboneTask)
    return task.backbone


def _difference(shared: Backbone, other: Backbone) -> str:
    """In what a backbone differs from the shared one, as part of a sentence; empty if in nothing."""
    for option in dataclasses.fields(other.config):
        value = getattr(other.config, option.name)
        if getattr(shared.config, option.name, None) != value:
            return f"{option.name}={shown(value)}"
    shapes = [{name: tuple(tensor.shape) for name, tensor in part.state_dict().items()} for part in (shared, other)]
    if shapes[0] != shapes[1] or shared.levels != other.levels:
        return "other layers, such as norms, or without its last stage"
    return ""


def _check_inputs(first: str, preprocess: Preprocess, second: str, other: Preprocess) -> None:
    if preprocess != other:
        raise VertebraError(
            f"heads {first!r} and {second!r} want different inputs, {_input(preprocess)} and {_input(other)}, and an "
            "image passes the backbone once: give data.image_size, data.resize and data.channels for all heads."
        )


def _input(preprocess: Preprocess) -> str:
    height, width = preprocess.size
    return f"{width} x {height} pixels by {preprocess.resize} with {preprocess.channels} channels"
