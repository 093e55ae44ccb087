"""The gradient of attention on this processor: torch's fused kernel beside plain products, by length and number format.

    python benchmarks/attention_kernels.py

`vertebra.attention` takes products for up to SHORT keys in half precision; the bold ratios are those where it does.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from backbones import machine, take_turns
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from vertebra.attention.attention import SHORT

LENGTHS = (12, 24, 49, 96, 160, 256, 512, 1024)
TOKENS, HEADS, WIDTH = 2048, 4, 64
"""Positions of all sequences together, heads, and channels of one."""


def main() -> None:
    torch.set_num_threads(1)  # so that the CPU time of the process is that of a run, whatever else the machine does
    print(f"{machine()}; torch {torch.__version__}; {TOKENS} positions, {HEADS} heads of {WIDTH} channels; forward and")
    print("backward, one thread, CPU time, ms; medians of 7\n")
    print("| length | format | fused | products | ratio |\n|---:|---|---:|---:|---:|")
    for dtype in (torch.float32, torch.bfloat16):
        for length in LENGTHS:
            shape = (max(1, TOKENS // length), HEADS, length, WIDTH)
            inputs = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
            functions = {name: step(kernel, inputs) for name, kernel in KERNELS.items()}
            times = take_turns(functions, 7, time.process_time)
            fused, products = (1e3 * times[name] for name in KERNELS)
            bold = "**" if dtype == torch.bfloat16 and length <= SHORT else ""
            form = str(dtype).removeprefix("torch.")
            print(
                f"| {length} | {form} | {fused:.1f} | {products:.1f} | {bold}{fused / products:.2f}{bold} |", flush=True
            )


KERNELS = {"fused": SDPBackend.FLASH_ATTENTION, "products": SDPBackend.MATH}


def step(kernel: SDPBackend, inputs: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        with sdpa_kernel(kernel):
            scaled_dot_product_attention(*inputs).sum().backward()

    return run


if __name__ == "__main__":
    main()
