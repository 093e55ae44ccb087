"""DDP and FSDP2 on two processes of a CPU: losses beside those of one process, and the memory of a process.

    python benchmarks/sharded.py

Each case is a run of `vertebra.train` in processes of its own. The losses are of 20 steps of vit_tiny_16, and must
agree with those of one process to 1e-5. Memory is the peak resident size (VmHWM) of three steps of vit_base_16 above
what the process takes before the run: parameters, gradients, the optimiser's state, and what it takes to build them.
That of FSDP2 must be below 60 % of DDP's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import Dataset

import vertebra
from vertebra.structures import Target

STRATEGIES = {"one process": ("ddp", 1), "DDP": ("ddp", 2), "FSDP2": ("fsdp", 2)}
STEPS = {"vit_tiny_16": 20, "vit_base_16": 3}
BATCH, SIDE = 8, 32


class Noise(Dataset):
    """Images of noise, so that no file is read."""

    classes = ("0", "1")

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        return image, Target(label=torch.tensor(index % 2))


def megabytes(entry: str) -> float:
    """VmRSS or VmHWM of this process."""
    return int(re.findall(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


class Recorder(L.Callback):
    """Writes the mean loss of each step over the processes and the memory of each process, and ends the process."""

    def __init__(self, folder: Path, steps: int, before: float) -> None:
        self.folder, self.steps, self.before, self.losses = folder, steps, before, list[float]()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach().double())))
        if len(self.losses) == self.steps:
            content = {"losses": self.losses, "memory": megabytes("VmHWM") - self.before}
            (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(content))
            trainer.strategy.barrier()
            os._exit(0)  # before a gigabyte of state is written


def train(backbone: str, name: str, folder: Path) -> None:
    strategy, processes = STRATEGIES[name]
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    vertebra.train(
        "classification",
        data={"train": Noise(STEPS[backbone] * BATCH), "val": Noise(2)},
        callbacks=[Recorder(folder, STEPS[backbone], megabytes("VmRSS"))],
        backbone=backbone,
        image_size=SIDE,
        batch_size=BATCH,
        workers=0,
        epochs=1,
        optimizer="adamw",
        lr=0.0001,
        clip=1.0,
        device="cpu",
        processes=processes,
        strategy=strategy,
        logger=[],
        output=folder / "run",
    )


def measured(backbone: str, name: str) -> tuple[list[float], float]:
    """The losses, and the memory of the process that takes most."""
    # What is freed goes back to the system at once; else glibc's heap keeps a part, of FSDP2's many blocks a gigabyte.
    malloc = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    environment = os.environ | malloc | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, backbone, name, folder]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        ranks = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("*.json"))]
    assert len(ranks) == STRATEGIES[name][1]
    return ranks[0]["losses"], max(rank["memory"] for rank in ranks)


def main() -> None:
    expected, _ = measured("vit_tiny_16", "one process")
    for name in ("DDP", "FSDP2"):
        losses, _ = measured("vit_tiny_16", name)
        difference = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
        print(f"{name}: losses from {losses[0]:.6f} to {losses[-1]:.6f}, {difference:.1e} from one process", flush=True)
        assert difference < 1e-5
    memory = {name: measured("vit_base_16", name)[1] for name in ("DDP", "FSDP2")}
    share = memory["FSDP2"] / memory["DDP"]
    print(f"memory: DDP {memory['DDP']:.0f} MB, FSDP2 {memory['FSDP2']:.0f} MB in a process, {share:.0%}")
    assert share < 0.6


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    else:
        main()
