"""The Transformer for translation beside torch.nn.Transformer of the same sizes and the same weights: a training step,
and beam search, for which torch has no cache of keys and values.

    python benchmarks/translation.py
    python benchmarks/translation.py --precision bf16-mixed
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch
from backbones import machine, take_turns
from methods.torch_transformer import TorchTransformer
from torch import Tensor, nn

import vertebra
from vertebra.ops.beam_search import beam_search, repeated
from vertebra.structures import Target
from vertebra.tasks.translation.transformer import Transformer
from vertebra.tasks.translator import Translator
from vertebra.text import END, PAD, Vocabulary

BATCH, SOURCE, TARGET = 32, 24, 24
"""Sentences, and tokens of each."""
BEAM = 4
SIZES = {"small": (256, 4, 3, 1024), "base": (512, 8, 6, 2048)}
"""Width, heads, depth and feedforward."""


def state_of(ours: Transformer) -> dict[str, Tensor]:
    """The weights under the names of torch.nn.Transformer."""
    state = {}
    for side in ("encoder", "decoder"):
        for i, layer in enumerate(getattr(ours, side)):
            parts = {"norm1": layer.around_attention.norm, "linear1": layer.feedforward.expand}
            parts |= {"linear2": layer.feedforward.project, "self_attn.out_proj": layer.attention.project}
            parts["norm2" if side == "encoder" else "norm3"] = layer.around_feedforward.norm
            joined = {"self_attn": layer.attention.qkv.state_dict()}
            if side == "decoder":
                attention = layer.source_attention
                parts |= {"norm2": layer.around_source.norm, "multihead_attn.out_proj": attention.project}
                split = [part.state_dict() for part in (attention.query, attention.key, attention.value)]
                joined["multihead_attn"] = {key: torch.cat([part[key] for part in split]) for key in split[0]}
            for part, module in parts.items():
                state |= {f"{side}.layers.{i}.{part}.{key}": x for key, x in module.state_dict().items()}
            for part, tensors in joined.items():
                state |= {f"{side}.layers.{i}.{part}.in_proj_{key}": x for key, x in tensors.items()}
        for key, value in getattr(ours, f"{side}_norm").state_dict().items():
            state[f"{side}.norm.{key}"] = value
    return state


def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: partial[Tensor], amp: bool) -> None:
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        value = loss()
    value.backward()
    optimizer.step()


def loss(model: Translator, source: Tensor, targets: list[Target]) -> Tensor:
    return model.loss(source, targets)["loss"]


def search(model: Translator, source: Tensor) -> Tensor:
    mask = source != PAD
    state, context = (repeated(part, BEAM) for part in model.start(model.encode(source, mask), mask))
    limits = torch.full((len(source),), TARGET)
    decode = partial(model.step, context=context)
    return beam_search(decode, state, mask, beam=BEAM, max_lengths=limits, length_penalty=0.6).tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="of training")
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that the CPU time of the process is that of a run, whatever else the machine does
    print(f"{machine()}; torch {torch.__version__}; {BATCH} sentences of {SOURCE} tokens, beam {BEAM} up to {TARGET}")
    print(f"tokens; one thread, CPU time, ms; medians of {options.repeats}\n")
    print("| size | | torch.nn.Transformer | ours | ratio |\n|---|---|---:|---:|---:|")
    for name, (width, heads, depth, feedforward) in SIZES.items():
        torch.manual_seed(0)
        words = Vocabulary.learn([" ".join(f"w{i}" for i in range(4000))], "word", 4004).content
        vocabularies = {"source_vocabulary": words, "target_vocabulary": words}
        sizes = {"width": width, "heads": heads, "depth": depth, "feedforward": feedforward}
        training = {"dropout": 0.1, "label_smoothing": 0.1}
        ours = vertebra.create("translation", method="transformer", **sizes, **training, **vocabularies)
        peer = TorchTransformer(ours.config, ours.classes, ours.preprocess)
        for side in ("source", "target"):
            table = getattr(ours, f"{side}_embedding")
            getattr(peer, f"{side}_embedding").load_state_dict(table.state_dict())
        peer.transformer.load_state_dict(state_of(ours))
        source = torch.randint(4, 4004, (BATCH, SOURCE))
        tokens = torch.cat((torch.randint(4, 4004, (BATCH, TARGET - 1)), torch.full((BATCH, 1), END)), 1)
        targets = [Target(tokens=row) for row in tokens]

        models = {"torch": peer, "ours": ours}
        losses = {key: partial(loss, model, source, targets) for key, model in models.items()}
        for model in models.values():
            model.eval()
        a, b = (float(loss().detach()) for loss in losses.values())
        assert abs(a - b) < 1e-4 * a, (a, b)
        for model in models.values():
            model.train()
        amp = options.precision == "bf16-mixed"
        report(
            name,
            f"training step, {options.precision}",
            {
                key: partial(step, model, torch.optim.AdamW(model.parameters(), 0.0, fused=True), losses[key], amp)
                for key, model in models.items()
            },
            options.repeats,
        )
        peer.eval()
        ours.eval()
        with torch.inference_mode():
            searches = {key: partial(search, model, source) for key, model in models.items()}
            assert torch.equal(searches["torch"](), searches["ours"]())
            report(name, "beam search", searches, options.repeats)


def report(size: str, what: str, functions: dict, repeats: int) -> None:
    times = take_turns(functions, repeats, time.process_time)
    torchs, ours = times["torch"], times["ours"]
    print(f"| {size} | {what} | {1e3 * torchs:.0f} | {1e3 * ours:.0f} | {torchs / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
