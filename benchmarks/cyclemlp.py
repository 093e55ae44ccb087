"""The cost of Cycle-FC: CycleMLP-B2 beside the same network with deformable convolutions, as its authors compute it,
and beside one without shifts, a plain 1x1 network of the same shape. The plain one takes the time of the matrix
products: no way of shifting can be faster.

    python benchmarks/cyclemlp.py
"""

from __future__ import annotations

import argparse
import copy
import os

import torch
from backbones import machine, take_turns
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

import vertebra
from vertebra.backbones.cyclemlp import CycleFC
from vertebra.nn.fold import fold
from vertebra.nn.shift import Shift


class Deformed(nn.Module):
    """Cycle-FC by torchvision's deform_conv2d with whole offsets: [B, H, W, C] -> same."""

    def __init__(self, source: CycleFC) -> None:
        super().__init__()
        self.linear = source.linear
        kernel = source.shift.kernel[:, 0]  # [C, rows, columns]
        rows, columns = (
            kernel.amax(axis).argmax(1) - size
            for axis, size in ((2, source.shift.reach[0]), (1, source.shift.reach[1]))
        )
        self.register_buffer("offset", torch.stack((rows, columns), 1).flatten().float()[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        offset = self.offset.expand(len(x), -1, *x.shape[2:]).contiguous()
        with torch.autocast("cpu", enabled=False):  # it has no bfloat16 kernel
            weight = self.linear.weight[..., None, None]
            return deform_conv2d(x.float(), offset, weight, self.linear.bias).permute(0, 2, 3, 1).type_as(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16, all but the deformable")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    ours = vertebra.create("classification", backbone="cyclemlp_b2").eval()
    deformed, plain = copy.deepcopy(ours), copy.deepcopy(ours)
    for module in list(deformed.modules()):
        for name, child in module.named_children():
            if isinstance(child, CycleFC):
                setattr(module, name, Deformed(child))
    for module in plain.modules():
        for name, child in module.named_children():
            if isinstance(child, Shift):
                setattr(module, name, nn.Identity())
    images = torch.randn(options.batch, 3, 224, 224)
    folded = fold(copy.deepcopy(ours))  # as vertebra.load makes it
    models = {"ours": ours, "ours, prediction": folded, "deform_conv2d": deformed, "plain 1x1": plain}
    with torch.inference_mode():
        expected = ours(images)[0]
        apart = float((expected - deformed(images)[0]).abs().max() / expected.std())
        if apart > 1e-4:
            raise SystemExit(f"the deformable network differs from ours by {apart:.1e} deviations")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
        times = take_turns({name: lambda model=model: model(images) for name, model in models.items()}, options.repeats)
    precision = "bfloat16 by autocast" if options.bf16 else "float32"
    print(f"{machine()}; torch {torch.__version__}; {precision}, batch {options.batch}, 224 x 224; ", end="")
    print(f"medians of {options.repeats}\n")
    print("| CycleMLP-B2, forward | ms | times ours |\n|---|---:|---:|")
    for name, seconds in times.items():
        print(f"| {name} | {seconds * 1e3:.0f} | {seconds / times['ours']:.2f} |")


if __name__ == "__main__":
    main()
