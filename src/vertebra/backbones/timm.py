"""Models of the library timm as backbones: `timm:NAME`, such as `timm:convnext_tiny`.

Maps and features are what timm's models return from `forward_intermediates` and `forward_head`, with the numbers that
timm computes. What timm does not say of its models, their limits of image size among them, is seen from running them on
the meta device.

Source: timm (PyTorch Image Models), https://github.com/huggingface/pytorch-image-models.

Shapes: B batch, C channels, H x W pixels, h x w feature cells.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from vertebra import weights
from vertebra.backbones.base import Backbone, BackboneConfig, frozen_statistics, in_four
from vertebra.errors import VertebraError, first_line, nearest, shown
from vertebra.options import as_tuples
from vertebra.structures import Level, Preprocess
from vertebra.weights import Fix, Rename, Weights

PREFIX = "timm:"
_HUB = "timm/"  # of most of its repositories
_RESERVED = {
    *("cache_dir", "checkpoint_path", "exportable", "feature_cls", "features_only", "kwargs_filter", "no_jit"),
    *("out_indices", "scriptable", "state_dict"),
}
"""Arguments of timm's that would read files or change what a model returns, besides those with `pretrained`."""
MAX_STAGES = 8
"""More modules in a row are blocks."""
_DECIDED = {"in_chans": "channels", "img_size": "image_size", "drop_path_rate": "drop_path"}
"""Arguments of timm's for which there are options here."""
_SIZE_ARGUMENTS: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)
"""How models that are made for one size are made to take others; the first that a model knows is used."""


@dataclass(frozen=True)
class Config(BackboneConfig):
    model: str
    """timm's name."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the model, such as `{depths: [1, 1, 2, 1]}`."""

    def __post_init__(self) -> None:
        if self.model not in _names():  # one of another place would be downloaded
            raise unknown(self.model)
        for key, value in self.arguments.items():
            if key in _RESERVED or "pretrained" in key:
                raise VertebraError(f"arguments.{shown(key)} cannot be set: Vertebra reads weights and maps by itself.")
            if key in _DECIDED:
                raise VertebraError(f"arguments.{key} is the option {_DECIDED[key]} of the backbone: use that.")
            if not _is_plain(value):
                raise VertebraError(f"arguments.{shown(key)} is {shown(value)}; a number, word, yes or no is expected.")


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise VertebraError(
            f"backbones named {PREFIX}... need the library timm: pip install 'vertebra[timm]'."
        ) from error
    return timm


def _create(config: Config, **arguments: Any) -> Any:
    """timm's model without its classifier.

    Raises:
        VertebraError: with timm's message, if it cannot be made.
    """
    timm = _timm()
    try:
        return timm.create_model(config.model, num_classes=0, **{**config.arguments, **arguments})
    except Exception as error:  # what does not fit each other can raise anything
        raise VertebraError(f"timm cannot make {config.model}: {first_line(error)[:200]}.") from error


@dataclass(frozen=True)
class Geometry:
    """What a model of timm returns, and for which images."""

    levels: tuple[Level, ...]
    indices: tuple[int, ...]
    """Of the maps of these levels among timm's: of every stride the last."""
    arguments: Mapping[str, Any]
    """Those that concern sizes."""
    size: tuple[int, int]
    """(height, width) that a model of one size takes; smaller images are padded to it."""
    any_size: bool
    padded: bool
    """Whether images are padded to a multiple of the coarsest stride, because timm's model refuses others or leaves out
    their last rows and columns."""


def _geometry(config: Config) -> Geometry:
    return _measure(config.model, json.dumps(dict(config.arguments), sort_keys=True), config.image_size)


@cache
def _measure(model: str, arguments: str, image_size: tuple[int, int]) -> Geometry:
    config = Config(model, as_tuples(json.loads(arguments)), image_size=image_size)
    with torch.device("meta"):
        net = _create(config)
        if not hasattr(net, "forward_intermediates"):
            raise VertebraError(f"this version of timm returns no maps of {model}: pip install -U timm.")
        strides = [int(info["reduction"]) for info in net.feature_info]
        indices = [i for i, stride in enumerate(strides) if stride > 1 and stride not in strides[i + 1 :]]
        unit = max(strides)
        default = tuple(net.pretrained_cfg["input_size"][1:])
        size = image_size if image_size == default else _rounded(image_size, unit)
        chosen: dict[str, Any] = {}
        if net.pretrained_cfg.get("fixed_input_size"):
            net, chosen = _for_size(config, size)
        net.eval()
        try:
            maps = _maps(net, size, indices)
        except Exception as error:
            raise VertebraError(
                f"timm's {model} does not take images of {size[0]} x {size[1]}: {first_line(error)[:200]}."
            ) from error
        levels = tuple(Level(strides[i], x.shape[1]) for i, x in zip(indices, maps, strict=True))
        odd, larger = (size[0] + 1, size[1] + 3), (size[0] + unit, size[1] + 2 * unit)
        whole = _cells_of(net, odd, indices) == [_cells(odd, level.stride) for level in levels]
        any_size = whole or _cells_of(net, larger, indices) is not None
    return Geometry(levels, tuple(indices), chosen, size, any_size, not whole)


def _for_size(config: Config, size: tuple[int, int]) -> tuple[Any, dict[str, Any]]:
    """A model for images of `size`, and the arguments with which it takes others too, as far as it can."""
    for arguments in ({"img_size": size, **more} for more in _SIZE_ARGUMENTS):
        try:
            return _create(config, **arguments), arguments
        except VertebraError as error:
            if "unexpected keyword" not in str(error):
                raise
    return _create(config), {}


def _rounded(size: Sequence[int], unit: int) -> tuple[int, int]:
    return (-(-size[0] // unit) * unit, -(-size[1] // unit) * unit)


def _maps(net: Any, size: tuple[int, int], indices: Sequence[int]) -> list[Tensor]:
    images = torch.empty(1, 3, *size, device="meta")
    with torch.no_grad():
        return net.forward_intermediates(images, indices=list(indices), intermediates_only=True)


def _cells_of(net: Any, size: tuple[int, int], indices: Sequence[int]) -> list[list[int]] | None:
    """Cells of the maps of an image of this size; None if the model does not take it."""
    try:
        return [list(x.shape[2:]) for x in _maps(net, size, indices)]
    except Exception:  # every model refuses in its own way
        return None


def _cells(size: Sequence[int], stride: int) -> list[int]:
    return [-(-side // stride) for side in size]


class LevelNorm(nn.LayerNorm):
    """Layer norm over the channels of every cell: [B, C, h, w] -> same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TimmModel(Backbone):
    """A model of timm: [B, channels, H, W] -> its maps, one of every stride."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.geometry = _geometry(config)
        self.levels = self.geometry.levels
        arguments = dict(self.geometry.arguments)
        if config.drop_path:
            arguments["drop_path_rate"] = config.drop_path
        self.net = _create(config, in_chans=config.channels, **arguments)
        self.width = int(getattr(self.net, "head_hidden_size", None) or self.net.num_features)
        self.indices = list(self.geometry.indices)
        if not config.embedding:
            names = {name for name, _ in self.named_parameters()}
            self.indices = list(self.net.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True))
            removed = names - {name for name, _ in self.named_parameters()}
            self.embedding_only = tuple(sorted(removed))  # type: ignore[misc]
        normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.net.modules())
        self.norms = nn.ModuleList()
        if config.level_norms and len(self.levels) > 1 and not normed:
            self.norms.extend(LevelNorm(level.channels) for level in self.levels)
        first = self.net.pretrained_cfg.get("first_conv") or ""
        self.first_conv = f"net.{first if isinstance(first, str) else first[0]}.weight"  # type: ignore[misc]
        undecayed = self.net.no_weight_decay() if hasattr(self.net, "no_weight_decay") else ()
        self.no_weight_decay = tuple({name.rpartition(".")[2] for name in undecayed})  # type: ignore[misc]
        self._hooks: list[Any] = []

    @property
    def any_size(self) -> bool:  # type: ignore[override]
        return self.geometry.any_size

    @property
    def checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass, in the blocks that timm chooses."""
        return self._checkpointing

    @checkpointing.setter
    def checkpointing(self, on: bool) -> None:
        self._checkpointing = on
        if "net" not in self._modules:  # in the constructor
            return
        try:
            self.net.set_grad_checkpointing(on)
        except (AssertionError, AttributeError) as error:
            raise VertebraError(f"timm's {self.config.model} has no activation checkpointing: leave it out.") from error
        for hook in self._hooks:
            hook.remove()
        norms = [module for module in self.net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._hooks = []
        for norm in norms if on else ():
            hooks = norm.register_forward_pre_hook(_before), norm.register_forward_hook(_after, always_call=True)
            self._hooks += hooks

    def forward_features(self, images: Tensor, on_level: Callable[[Tensor], object]) -> Tensor:
        size = (images.shape[2], images.shape[3])
        x = images
        if not self.any_size and size != self.config.image_size:
            height, width = self.config.image_size
            raise VertebraError(
                f"{PREFIX}{self.config.model} works only at the input size that it was built for, {height} x {width}, "
                f"and got images of {size[0]} x {size[1]}: build it with image_size=({size[0]}, {size[1]})."
            )
        if self.geometry.padded:
            height, width = _rounded(size, self.levels[-1].stride) if self.any_size else self.geometry.size
            x = nn.functional.pad(x, (0, width - size[1], 0, height - size[0]))
        options = {"indices": self.indices, "intermediates_only": not self.config.embedding}
        result = self.net.forward_intermediates(x, **options)
        last, maps = result if self.config.embedding else (result[-1], result)
        for i, (map, level) in enumerate(zip(maps, self.levels, strict=True)):
            height, width = _cells(size, level.stride)
            cells = _cells(x.shape[2:], level.stride)
            if list(map.shape[2:]) != cells:  # of networks that do not pad
                map = nn.functional.interpolate(map, cells, mode="bilinear")
            map = map[:, :, :height, :width]
            on_level(self.norms[i](map) if self.norms else map)
        return last

    def embed(self, images: Tensor) -> Tensor:
        if not self.config.embedding:
            raise VertebraError("this backbone was built without its embedding layers: pass embedding=True.")
        return super().embed(images)

    def pool(self, x: Tensor) -> Tensor:
        """What timm's classifier takes."""
        return self.net.forward_head(x, pre_logits=True)

    def stage_modules(self) -> list[list[nn.Module]]:
        """By the names that timm gives to stages, and to blocks where there are no stages."""
        if hasattr(self.net, "layer1"):
            return [[getattr(self.net, f"layer{i}")] for i in range(1, 5) if hasattr(self.net, f"layer{i}")]
        for name in ("stages", "layers", "blocks"):
            parts = getattr(self.net, name, None)
            if isinstance(parts, nn.Sequential | nn.ModuleList) and len(parts):
                return [[part] for part in parts] if len(parts) <= MAX_STAGES else in_four(list(parts))
        return []

    def layers(self) -> list[nn.Module]:
        """By timm's own grouping for layer-wise decay; of models that have none, their parts in order, of rows of
        stages or blocks each."""
        named = dict(self.net.named_parameters())
        if hasattr(self.net, "group_matcher"):
            order = _timm().models.group_parameters(self.net, self.net.group_matcher(coarse=False), reverse=True)
        else:
            parts = []
            for name, child in self.net.named_children():
                rows = isinstance(child, nn.Sequential | nn.ModuleList)  # of stages or blocks
                parts += [f"{name}.{part}." for part, _ in child.named_children()] if rows else [f"{name}."]
            order = {name: sum(i for i, part in enumerate(parts, 1) if name.startswith(part)) for name in named}
        depth = {id(parameter): order[name] for name, parameter in named.items()}
        groups: dict[int, list[nn.Module]] = {number: [] for number in sorted(set(depth.values()))}
        for child in (self.net, *self.net.children()):
            _split(child, depth, groups, whole=child is not self.net)
        layers = [nn.ModuleList(parts) for parts in groups.values()]
        return [*layers, self.norms] if self.norms else [*layers]

    def prepare(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Tensors of a checkpoint as timm reads it, which knows older names of some."""
        try:
            return self._converted(state)
        except Exception as error:  # of files of other models, anything
            raise VertebraError(
                f"timm does not read this as {self.config.model}: {first_line(error)[:200]}."
            ) from error

    def adapt(self, name: str, tensor: Tensor, shape: torch.Size) -> tuple[Tensor, str] | None:
        """Tables for another image size are resized as timm does."""
        key = name.removeprefix("net.")
        with contextlib.suppress(Exception):
            resized = self._converted({key: tensor})[key]
            if resized.shape == shape:
                return resized, f"{list(tensor.shape)} -> {list(shape)}, for the image size"
        return super().adapt(name, tensor, shape)

    def _converted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        entry = _timm().models.model_entrypoint(self.config.model)
        modules = [sys.modules[entry.__module__], sys.modules[type(self.net).__module__]]
        convert = next((m.checkpoint_filter_fn for m in modules if hasattr(m, "checkpoint_filter_fn")), None)
        return state if convert is None else convert(dict(state), self.net)


def _split(module: nn.Module, depth: dict[int, int], groups: Mapping[int, list[nn.Module]], *, whole: bool) -> None:
    """Puts the largest parts of a module whose parameters are all of one group into that group, and takes these
    parameters out of `depth`, so that shared ones are put into one alone."""
    parameters = list(module.parameters())
    depths = {depth.get(id(parameter)) for parameter in parameters}
    if whole and len(depths) == 1 and (group := depths.pop()) is not None:
        groups[group].append(module)
        for parameter in parameters:
            del depth[id(parameter)]
        return
    for parameter in module.parameters(recurse=False):
        if id(parameter) in depth:
            groups[depth.pop(id(parameter))].append(nn.ParameterList([parameter]))
    for child in module.children() if whole else ():
        _split(child, depth, groups, whole=True)


def _before(norm: nn.Module, _: Any) -> None:
    """In the backward pass, holds the running statistics, which the recomputation would update once more."""
    if torch._C._current_graph_task_id() >= 0:
        held = contextlib.ExitStack()
        held.enter_context(frozen_statistics(norm))
        norm.__dict__["_held"] = held


def _after(norm: nn.Module, *_: Any) -> None:
    if held := norm.__dict__.pop("_held", None):
        held.close()


class _ByName(Mapping[str, Any]):
    """Values by timm's names after PREFIX, or after the owner of its repositories, made when they are asked for."""

    def __init__(self, make: Callable[[str], Any], names: Callable[[], Sequence[str]]) -> None:
        self.make, self.names = make, names

    def __getitem__(self, name: str) -> Any:
        model = name.removeprefix(PREFIX).removeprefix(_HUB)
        if model == name or model not in self.names():
            raise KeyError(name)
        return self.make(model)

    def __iter__(self) -> Iterator[str]:
        return (PREFIX + name for name in self.names())

    def __len__(self) -> int:
        return len(self.names())


@cache
def _names() -> dict[str, None]:
    """timm's architectures, sorted."""
    return dict.fromkeys(_timm().list_models())


@cache
def _checkpoints() -> dict[str, None]:
    """timm's checkpoints that are on the Hub, and the names of their architectures, for the best of each."""
    timm = _timm()
    names = [name for name in timm.list_pretrained() if timm.get_pretrained_cfg(name).hf_hub_id]
    return dict.fromkeys([*names, *(name.partition(".")[0] for name in names)])


def _config(model: str) -> Config:
    cfg = _timm().get_pretrained_cfg(model)
    return Config(model, image_size=tuple(cfg.input_size[1:]) if cfg else BackboneConfig.image_size)


def _card(name: str) -> Weights:
    cfg = _timm().get_pretrained_cfg(name)
    owner, slash, repository = cfg.hf_hub_id.partition("/")
    model = name.partition(".")[0]
    size = tuple((cfg.test_input_size or cfg.input_size)[1:])
    return Weights(
        hub=f"{owner}{slash}{repository or f'{model}.{cfg.tag}'}",
        file=cfg.hf_hub_filename or "",
        source="timm",
        licence=(cfg.license or "unknown").lower(),
        backbone=PREFIX + model,
        reference="timm",
        preprocess=Preprocess(
            size,
            min(1.0, cfg.test_crop_pct or cfg.crop_pct),
            "squash" if cfg.crop_mode == "squash" else "crop",
            cfg.interpolation if cfg.interpolation in ("bilinear", "bicubic", "nearest") else "bicubic",
            mean=tuple(cfg.mean),
            std=tuple(cfg.std),
        ),
        classes=cfg.num_classes,
    )


def has(name: str) -> bool:
    """Whether timm is installed and has a model of this name."""
    try:
        return name in _names()
    except VertebraError:
        return False


def unknown(name: str) -> VertebraError:
    """Why there is no backbone of this name."""
    model, _, tag = name.removeprefix(PREFIX).partition(".")
    if tag and model in _names():
        return VertebraError(f"{name} is a checkpoint: name the backbone {PREFIX}{model}, and weights={name}.")
    return VertebraError(
        f"timm has no model {shown(model)}; `vertebra models {PREFIX}*` lists them.{nearest(model, _names())}"
    )


MODEL = TimmModel
VARIANTS = _ByName(_config, _names)  # type: ignore[arg-type]
ALIASES: dict[str, str] = {}
WEIGHTS = _ByName(_card, _checkpoints)  # type: ignore[arg-type]


def _rules(config: Config) -> weights.Rules:
    """timm's own names; the classifier, of which there may be several, apart."""
    cfg = _timm().get_pretrained_cfg(config.model)
    classifier = (cfg and cfg.classifier) or "head"
    classifiers = [classifier] if isinstance(classifier, str) else list(classifier)
    heads = [
        Rename(rf"^net\.{re.escape(name)}\.", f"head.{i}." if i or len(classifiers) > 1 else "head.")
        for i, name in enumerate(classifiers)
    ]
    return (
        Rename(r"^", "net."),
        *heads,
        Fix(r"^head\.weight$", lambda x: x.flatten(1), "a 1x1 convolution -> a linear layer"),
    )


RULES = {"timm": _rules}
