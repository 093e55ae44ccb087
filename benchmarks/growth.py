"""Cost of a forward pass against the image's area, drawn: ViT (attention over all patches), Swin (inside
windows) and CycleMLP.

    python benchmarks/growth.py docs/backbones/figures/growth.svg
"""

from __future__ import annotations

import argparse
import os
from functools import partial

import matplotlib.pyplot as plt
import torch
from backbones import machine, take_turns

import vertebra

MODELS = ("vit_small_16", "swin_tiny", "cyclemlp_b2")
SIDES = (64, 96, 128, 192, 256, 320, 384, 448, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", help="file to draw to: .svg or .png")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    models = {name: vertebra.backbone(name, embedding=True).eval() for name in MODELS}
    times: dict[str, list[float]] = {name: [] for name in MODELS}
    print(f"{machine()}; torch {torch.__version__}; one image, medians of {options.repeats}\n")
    print(f"| side, pixels | {' | '.join(f'{name}, ms' for name in MODELS)} |\n|---:|{'---:|' * len(MODELS)}")
    with torch.inference_mode():
        for side in SIDES:
            images = torch.randn(1, 3, side, side)
            measured = take_turns({k: partial(m.embed, images) for k, m in models.items()}, options.repeats)
            for name, seconds in measured.items():
                times[name].append(seconds * 1e3)
            print(f"| {side} | {' | '.join(f'{measured[name] * 1e3:.1f}' for name in MODELS)} |", flush=True)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    areas = [side**2 / 1e3 for side in SIDES]
    for name in MODELS:
        axes.plot(areas, times[name], marker="o", markersize=4, label=name)
    axes.set(
        xlabel="area of the image, thousand pixels",
        ylabel="time of a forward pass, ms",
        ylim=(0, None),
        xlim=(0, None),
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.figure, metadata={"Date": None} if options.figure.endswith(".svg") else None)


if __name__ == "__main__":
    main()
