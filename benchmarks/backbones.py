"""Our backbones beside timm's and torchvision's: same weights, same input, one process, taking turns.

    python benchmarks/backbones.py                     # two groups of models
    python benchmarks/backbones.py resnet50 --batch 8  # others

Per model: forward, training step (forward, backward, SGD) and peak memory of a training step, ours against the faster
peer; and the prediction path of `vertebra.load` against timm's eager forward. Ratios above 1 are in our favour.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.profiler import profile

import vertebra
from vertebra import backbones, weights
from vertebra.engine import checkpoint
from vertebra.ledger.fabricate import fabricate

# Groups of models whose prediction path is summed up by a geometric mean.
GROUPS = (
    ("resnet50", "resnext50_32x4d", "se_resnet50", "efficientnetv2_s"),
    ("hrnet_w18", "res2net50_26w4s", "swin_tiny"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[name for group in GROUPS for name in group])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{machine()}; torch {torch.__version__}, timm {timm.__version__}, torchvision {torchvision.__version__}")
    print(
        f"batch {options.batch}, {options.size} x {options.size}, float32, {options.threads} threads; medians of "
        f"{options.repeats}\n"
    )
    print("| model | what | ours | timm | torchvision | ratio |")
    print("|---|---|---:|---:|---:|---:|")
    gains = {}
    for name in options.models:
        models = build(name)
        images = torch.randn(options.batch, 3, options.size, options.size)
        check(name, models, images)
        gains[name] = compare(name, models, images, options.repeats)
    print()
    for group in GROUPS:
        measured = [gain for name in group if (gain := gains.get(name))]
        if len(measured) == len(group):
            mean = math.exp(statistics.fmean(math.log(gain) for gain in measured))
            print(f"prediction path against timm's eager forward, geometric mean of {', '.join(group)}: {mean:.3f}")


def build(name: str) -> dict[str, nn.Module]:
    """ours, timm and torchvision (where they have the model) with one set of weights, in eval mode."""
    ours = vertebra.create("classification", backbone=name, classes=1000)
    gain = 1.2 if name.startswith(("dla", "res2n")) else 0.8 if name.startswith("hrnet") else 1.0
    state = {k: fabricate(k, v.shape, gain) if v.is_floating_point() else v for k, v in ours.state_dict().items()}
    ours.load_state_dict(state)
    eps = next((m.eps for m in ours.modules() if isinstance(m, nn.BatchNorm2d)), None)
    tables = ours.backbone.tables()
    aliases = [name, *(a for a, public in backbones.family(name).ALIASES.items() if public == name)]
    models: dict[str, nn.Module] = {"ours": ours}
    for alias in aliases:
        if timm.is_model(alias) and "timm" not in models:
            models["timm"] = filled(timm.create_model(alias), tables["timm"], state, eps)
        if alias in torchvision.models.list_models() and "torchvision" not in models:
            models["torchvision"] = filled(torchvision.models.get_model(alias), tables["torchvision"], state, eps)
    return {key: model.eval() for key, model in models.items()}


def filled(peer: nn.Module, table: weights.Rules, state: Mapping[str, Tensor], eps: float | None) -> nn.Module:
    """`peer` with our weights, by the rules that translate its names to ours, and our batch norm's eps
    (timm's own efficientnetv2_s, which has no published weights, has another)."""
    translated_state = {}
    for key, tensor in peer.state_dict().items():
        translated, dropped = weights.convert({key: tensor}, table)
        if not dropped:
            (name,) = translated
            translated_state[key] = state[name if name.startswith("head.") else f"backbone.{name}"].reshape(
                tensor.shape
            )
    peer.load_state_dict(translated_state, strict=False)
    for module in peer.modules():
        if eps is not None and isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    return peer


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """[B, num_classes]; ours gives a tuple of raw outputs."""
    output = model(images)
    return output[0] if isinstance(output, tuple) else output


def check(name: str, models: Mapping[str, nn.Module], images: Tensor) -> None:
    """Raises if the logits differ: a benchmark of different models would mean nothing."""
    with torch.inference_mode():
        outputs = {key: logits(model, images) for key, model in models.items()}
    for key, output in outputs.items():
        worst = float((output - outputs["ours"]).abs().max() / outputs["ours"].std())
        if worst > 1e-4:
            raise SystemExit(f"{name}: {key} differs from ours by {worst:.1e} deviations")


def compare(name: str, models: Mapping[str, nn.Module], images: Tensor, repeats: int) -> float | None:
    """Prints the model's rows; returns the prediction path's gain over timm."""

    def forward(model: nn.Module) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode():
                return logits(model, images)

        return run

    def step(model: nn.Module) -> Callable[[], Any]:
        optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
        labels = torch.arange(len(images))

        def run() -> None:
            nn.functional.cross_entropy(logits(model, images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    row(name, "forward, ms", take_turns({k: forward(m) for k, m in models.items()}, repeats), 1e3)
    gain = None
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(models["ours"], Path(folder, "best.safetensors"))  # type: ignore[arg-type]
        predictor = vertebra.load(folder, device="cpu")
    eager = forward(models["ours"])()
    apart = float((predictor.raw(images)[0] - eager).abs().max() / eager.std())
    if "timm" in models:
        times = take_turns({"ours": lambda: predictor.raw(images), "timm": forward(models["timm"])}, repeats)
        row(name, f"prediction, ms (apart {apart:.0e})", times, 1e3)
        gain = times["timm"] / times["ours"]
    for model in models.values():
        model.train()
    steps = {k: step(m) for k, m in models.items()}
    row(name, "training step, ms", take_turns(steps, max(5, repeats // 2)), 1e3)
    row(name, "training peak, MiB", {k: peak_memory(s) for k, s in steps.items()}, 2**-20)
    return gain


def take_turns(
    runs: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    pause: float = 0.0,
) -> dict[str, float]:
    """Median seconds of each by `clock`, after two rounds that do not count, `pause` seconds before each run."""
    times: dict[str, list[float]] = {key: [] for key in runs}
    for i in range(repeats + 2):
        for key in list(runs)[:: 1 if i % 2 else -1]:  # each goes first as often as last
            time.sleep(pause)
            start = clock()
            runs[key]()
            if i >= 2:
                times[key].append(clock() - start)
    return {key: statistics.median(values) for key, values in times.items()}


def training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A function that makes a step of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)

    def run() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def peak_memory(run: Callable[[], Any]) -> float:
    """Most bytes of tensors allocated by `run` at once, beyond those alive before it."""
    with profile(profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return float(most)


def row(name: str, what: str, values: Mapping[str, float], scale: float) -> None:
    peers = [v for k, v in values.items() if k != "ours"]
    cells = [f"{values[k] * scale:.0f}" if k in values else "-" for k in ("ours", "timm", "torchvision")]
    ratio = f"{min(peers) / values['ours']:.3f}" if peers else "-"
    print(f"| {name} | {what} | {' | '.join(cells)} | {ratio} |", flush=True)


def machine() -> str:
    """Processor and system, in words."""
    try:
        model = next(
            x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x
        )
    except (OSError, StopIteration):
        model = platform.processor()
    return f"{os.cpu_count()} cores of {model}, {platform.system()}"


if __name__ == "__main__":
    main()
