"""Writes src/vertebra/ledger: the counts of every backbone, and reference outputs computed by timm and torchvision.

    python tools/make_ledger.py            # counts only
    python tools/make_ledger.py --outputs  # and the reference outputs; takes minutes and a few GB of memory

The references are of the originals: this script runs timm and torchvision, never our models.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vertebra import backbones
from vertebra.backbones.facts import Facts, facts
from vertebra.ledger import FOLDER
from vertebra.ledger.fabricate import fabricate_state, fabricated_input

LIMIT = 60_000_000  # parameters of the largest original that is run
# By family or name: with 1, the signal vanishes, or in HRNet grows without bound.
GAIN = {"efficientnetv2": 1.25, "efficientnetv2_rw_m": 1.1, "dla": 1.2, "hrnet": 0.8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", action="store_true")
    options = parser.parse_args()
    rows = []
    for name in backbones.names():
        counted = facts(name)
        rows.append(
            {
                "name": name,
                "family": counted.family,
                "parameters": counted.parameters,
                "macs": counted.macs,
                "size": counted.size,
                "levels": [dataclasses.astuple(level) for level in counted.levels],
                "weights": {
                    key: {"hub": w.hub, "licence": w.licence, "top1": w.top1, "size": w.preprocess.size[0]}
                    for key, w in counted.weights.items()
                },
                "top1": counted.top1,
                "top1_source": counted.top1_source,
            }
        )
        print(name, f"{counted.parameters:,}", f"{counted.macs:,}")
        if options.outputs and counted.parameters < LIMIT:
            outputs(counted)
    lines = ",\n".join(json.dumps(row) for row in rows)
    (FOLDER / "facts.json").write_text(f"[\n{lines}\n]\n")


def outputs(counted: Facts) -> None:
    """The reference of one backbone, from timm if it has it, else from torchvision."""
    import timm
    import torchvision

    name, family = counted.name, counted.family
    blocks = family in ("vit", "swin", "mixer", "resmlp", "gmlp")  # timm returns their maps without another model
    aliases = [name, *(alias for alias, public in backbones.family(name).ALIASES.items() if public == name)]
    timm_name = next((alias for alias in aliases if timm.is_model(alias)), None)
    same = timm_name and "efficientnetv2" in timm_name and not timm_name.startswith("tf_") and "_rw_" not in timm_name
    if timm_name and not same:
        source, made_by = "timm", f"timm {version('timm')}"
        model: Any = timm.create_model(timm_name)
        features = None if blocks else timm.create_model(timm_name, features_only=True)
        identity = f"timm_{timm_name}"
    else:
        torchvision_name = next((alias for alias in aliases if alias in torchvision.models.list_models()), None)
        if torchvision_name is None:
            print("  no original to run")
            return
        source, made_by = "torchvision", f"torchvision {version('torchvision')}"
        model, features = torchvision.models.get_model(torchvision_name), None
        identity = f"tv_{torchvision_name}"
    state = [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()]
    gain = GAIN.get(name, GAIN.get(family, 1.0))
    filled = fabricate_state(state, gain)
    side = counted.size if blocks else 96
    images = fabricated_input([1, 3, side, side], 0)
    model.load_state_dict(filled)
    tensors = {"logits": run(model, images)}
    if blocks and timm_name:
        with torch.no_grad():
            last = 3 if len(counted.levels) == 1 else None  # of the plain ones, the last three blocks
            maps = model.forward_intermediates(images, indices=last, intermediates_only=True)
        tensors |= {f"feature{i}": feature for i, feature in enumerate(maps)}
    if features is not None:
        features.load_state_dict(filled, strict=False)
        tensors |= {f"feature{i}": feature for i, feature in enumerate(run(features, images))}
    spec: dict[str, Any] = {"id": identity, "backbone": name, "source": source, "made_by": made_by}
    spec |= {"gain": gain, "norm": 1.0}
    spec |= {"input": {"shape": list(images.shape), "seed": 0}, "outputs": {}, "state": state}
    arrays = {}
    for key, tensor in tensors.items():
        step = 1 if key == "logits" else max(1, tensor.numel() // 256) | 1
        arrays[key] = tensor.reshape(-1)[::step].numpy()
        spec["outputs"][key] = {"shape": list(tensor.shape), "array": key, "step": step, "std": float(tensor.std())}
    (FOLDER / f"{identity}.json").write_text(json.dumps(spec, separators=(",", ":")))
    np.savez_compressed(FOLDER / f"{identity}.npz", **arrays)


def run(model: nn.Module, images: Tensor) -> Any:
    with torch.no_grad():
        return model.eval()(images)


if __name__ == "__main__":
    main()
