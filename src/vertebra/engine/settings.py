"""Everything that decides a training run; the fields are the command line's flags and the keys of config.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vertebra.data.transforms import Augment

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Number formats of the computation, by Lightning's names."""


@dataclass
class Data:
    """Which pictures, and how they enter the network."""

    path: str = "shapes"
    """Folder or file in any known format, see `vertebra data`, or `shapes` (built in)."""
    image_size: int = 0
    """Side of the square input, in pixels, or of the shorter side where pictures keep their shape; 0 takes the usual:
    the backbone's own for classification, mostly 224, and 800 for boxes."""
    batch_size: int = 32
    """Pictures per step, over all processes together."""
    workers: int | None = None
    """Processes that read pictures; chosen by the number of cores if not given."""
    val_share: float = 0.2
    """Share of each class set apart for validation where the data has no val split, in 0..1."""
    channels: int = 3
    """1 reads pictures as grey, 3 as RGB."""
    resize: Literal["auto", "crop", "squash", "shortest", "fit"] = "auto"
    """Classification: `crop` keeps the aspect ratio and takes the centre, `squash` stretches the whole picture to the
    input. Boxes: `shortest` scales by the shorter side, up to 1.67 times that for the longer; `fit` puts the whole
    picture into the square. `auto` takes the first that the task and the backbone can do with."""


@dataclass
class Settings:
    """One training run."""

    model: Any
    """The task's own Config."""
    task: str = "classification"
    """What is trained."""
    data: Data = field(default_factory=Data)
    """Which pictures, and how they enter the network."""
    augment: Any = field(default_factory=Augment)
    """What is done at random to training pictures."""
    epochs: int = 30
    """Passes over the training pictures."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`sgd` with momentum and Nesterov's step, or `adamw`."""
    lr: float | None = None
    """Learning rate at its highest; 0.02 for sgd and 0.001 for adamw if not given."""
    lrf: float = 0.01
    """The cosine ends at lr * lrf."""
    momentum: float = 0.9
    """Of sgd; adamw's first beta."""
    weight_decay: float | None = None
    """On weights of two or more dimensions; 0.0001 for sgd and 0.05 for adamw if not given."""
    warmup: float = 1.0
    """Epochs in which the learning rate rises linearly to lr."""
    layer_decay: float = 1.0
    """Factor on the learning rate for every layer further from the output; 1 treats all alike."""
    freeze_backbone: bool = False
    """Train the head alone."""
    weights: str | None = None
    """Checkpoint to start from: a file, a folder, a published name or a Hub name; what does not fit is listed."""
    source: str | None = None
    """Whose names `weights` bears, such as `mmdet/caffe`; found out if not given."""
    balance: bool = False
    """Weigh each class in the loss by the inverse of its share of the training pictures."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights, such as 0.999; the average is what is validated and
    kept. 0 is without."""
    accumulate: int = 1
    """Batches whose gradients are averaged before a step."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    patience: int = 0
    """Stop after so many validations without a better one; 0 never stops early."""
    val_every: int = 1
    """Epochs from one validation to the next; the last epoch is always validated."""
    precision: Precision = "32-true"
    """Number format of the computation."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    strict: bool = False
    """Stop at the first picture that cannot be read, or annotation that is wrong, instead of listing it."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What to compute on; `auto` takes the fastest there is."""
    devices: int = 0
    """Processes, one per device; 0 takes what there is (one on a CPU)."""
    seed: int = 0
    """Of everything random; the same seed gives the same run."""
    output: str | None = None
    """Folder for the results; runs/TASK-BACKBONE-NUMBER if not given."""
    resume: str | None = None
    """Run folder (or its last.ckpt) of a stopped run to go on with."""

    @property
    def peak_lr(self) -> float:
        return self.lr if self.lr is not None else {"sgd": 0.02, "adamw": 0.001}[self.optimizer]

    @property
    def decay(self) -> float:
        return self.weight_decay if self.weight_decay is not None else {"sgd": 1e-4, "adamw": 0.05}[self.optimizer]
