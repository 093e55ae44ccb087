"""Attention to the neighbours of a position, as the sequence grows: in windows and sliding, against full attention
under a mask that allows the same.

    python benchmarks/attention.py docs/attention/figures/growth.svg
    python benchmarks/attention.py docs/attention/figures/growth.svg --flex   # and FlexAttention, which compiles first
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial

import matplotlib.pyplot as plt
import torch
from backbones import machine, take_turns
from torch import Tensor

from vertebra.attention import Attention, SlidingAttention, Windowed
from vertebra.attention.masks import sliding_mask
from vertebra.attention.sliding import flex

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
HEADS, WIDTH = 4, 32
"""Heads, and channels of one."""
RADIUS = 64
"""Of sliding attention; a window is twice as long, which gives a query as many keys."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", help="file to draw to: .svg or .png")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--flex", action="store_true", help="FlexAttention too, forward only")
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that the CPU time of the process is that of a run, whatever else the machine does
    print(
        f"{machine()}; torch {torch.__version__}; one sequence, {HEADS} heads of {WIDTH} channels, radius {RADIUS}, "
        f"windows of {2 * RADIUS}; one thread, CPU time; medians of {options.repeats}\n"
    )
    figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.8), layout="constrained", sharey=True)
    for axes, training in zip(panels, (False, True), strict=True):
        times = measure(training, options.repeats, options.flex and not training)
        for name, seconds in times.items():
            axes.loglog(LENGTHS, [1e3 * s for s in seconds], marker="o", markersize=4, label=name)
        axes.set(xlabel="length of the sequence", title="forward and backward" if training else "forward")
        axes.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("CPU time, ms")
    panels[0].legend(frameon=False)
    figure.savefig(options.figure, metadata={"Date": None} if options.figure.endswith(".svg") else None)


def measure(training: bool, repeats: int, with_flex: bool) -> dict[str, list[float]]:
    """Seconds of each mechanism by length; prints them as a table, with the exponent of the growth at its end."""
    times: dict[str, list[float]] = {}
    for length in LENGTHS:
        functions = mechanisms(length, training, with_flex)
        if not times:
            times = {name: [] for name in functions}
            print(f"| {'forward and backward' if training else 'forward'}, ms | {' | '.join(functions)} |")
            print(f"|---:|{'---:|' * len(functions)}")
        for name, seconds in take_turns(functions, repeats, time.process_time).items():
            times[name].append(seconds)
        print(f"| {length} | {' | '.join(f'{1e3 * times[name][-1]:.1f}' for name in times)} |", flush=True)
    exponents = [math.log2(seconds[-1] / seconds[-3]) / 2 for seconds in times.values()]
    print(f"| exponent, from {LENGTHS[-3]} on | {' | '.join(f'{exponent:.2f}' for exponent in exponents)} |\n")
    return times


def mechanisms(length: int, training: bool, with_flex: bool) -> dict[str, Callable[[], object]]:
    """By name; raises if sliding attention is not full attention under its mask."""
    inputs = [torch.randn(1, HEADS, length, WIDTH, requires_grad=training) for _ in range(3)]
    full, sliding, windowed = Attention(), SlidingAttention(RADIUS), Windowed((2 * RADIUS,), shifted=True)
    mask = sliding_mask(length, RADIUS)
    functions: dict[str, Callable[..., Tensor]] = {
        "full, masked": lambda *x: full(*x, mask),
        "sliding": sliding,
        "shifted windows": windowed,
    }
    if with_flex:
        functions["FlexAttention"] = lambda q, k, v: flex(sliding.score.factors(q, k), v, RADIUS, False)
    with torch.inference_mode():
        for name in functions.keys() - {"shifted windows"}:
            torch.testing.assert_close(functions[name](*inputs), sliding(*inputs), rtol=1e-4, atol=1e-5)
    return {name: partial(step if training else forward, function, inputs) for name, function in functions.items()}


def forward(function: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    with torch.inference_mode():
        function(*inputs)


def step(function: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    function(*inputs).sum().backward()


if __name__ == "__main__":
    main()
