"""The Transformer for translation beside torch.nn.Transformer of the same sizes and the same weights: a training step,
and beam search, for which torch has no cache of keys and values.

    python benchmarks/translation.py
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial

import torch
from backbones import machine, take_turns
from torch import Tensor, nn

import vertebra
from vertebra.attention.positions import Sinusoidal
from vertebra.ops.beam_search import beam_search, repeated
from vertebra.structures import Target
from vertebra.tasks.translation.transformer import Transformer
from vertebra.tasks.translator import shifted
from vertebra.text import END, PAD, Vocabulary

BATCH, SOURCE, TARGET = 32, 24, 24
"""Sentences, and tokens of each."""
BEAM = 4
SIZES = {"small": (256, 4, 3, 1024), "base": (512, 8, 6, 2048)}
"""Width, heads, depth and feedforward."""


class Peer(nn.Module):
    """torch.nn.Transformer with embeddings, positions and tied logits, as a user would write it."""

    def __init__(self, ours: Transformer) -> None:
        super().__init__()
        config = ours.config
        self.width = config.width
        self.source = nn.Embedding(*ours.source_embedding.weight.shape)
        self.target = nn.Embedding(*ours.target_embedding.weight.shape)
        self.position = Sinusoidal()
        self.transformer = nn.Transformer(
            config.width,
            config.heads,
            config.depth,
            config.depth,
            config.feedforward,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.source.load_state_dict(ours.source_embedding.state_dict())
        self.target.load_state_dict(ours.target_embedding.state_dict())
        self.transformer.load_state_dict(state_of(ours))

    def embed(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        return self.position(table(ids) * math.sqrt(self.width))

    def encode(self, source: Tensor) -> Tensor:
        return self.transformer.encoder(self.embed(self.source, source), src_key_padding_mask=source == PAD)

    def logits(self, memory: Tensor, padding: Tensor, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.transformer.decoder(
            self.embed(self.target, tokens),
            memory,
            tgt_mask=mask,
            tgt_is_causal=True,
            memory_key_padding_mask=padding,
        )
        return nn.functional.linear(x, self.target.weight)

    def search(self, source: Tensor) -> Tensor:
        memory, padding = self.encode(source), source == PAD
        memory, padding = (x.repeat_interleave(BEAM, 0) for x in (memory, padding))

        def step(tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            prefix = torch.cat((state["prefix"], tokens[:, None]), 1)
            logits = self.logits(memory, padding, prefix)[:, -1]
            return logits, logits.new_zeros(len(logits), 1), {"prefix": prefix}

        state = {"prefix": torch.zeros(len(memory), 0, dtype=torch.int64)}
        limits = torch.full((len(source),), TARGET)
        return beam_search(step, state, source != PAD, beam=BEAM, max_lengths=limits, length_penalty=0.6).tokens


def state_of(ours: Transformer) -> dict[str, Tensor]:
    """The weights under torch's names."""
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


def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: partial[Tensor]) -> None:
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


def our_search(ours: Transformer, source: Tensor) -> Tensor:
    mask = source != PAD
    state, context = (repeated(part, BEAM) for part in ours.start(ours.encode(source, mask), mask))
    limits = torch.full((len(source),), TARGET)
    decode = partial(ours.step, context=context)
    return beam_search(decode, state, mask, beam=BEAM, max_lengths=limits, length_penalty=0.6).tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
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
        training = {"dropout": 0.0, "label_smoothing": 0.1}
        ours = vertebra.create("translation", method="transformer", **sizes, **training, **vocabularies)
        peer = Peer(ours)
        source = torch.randint(4, 4004, (BATCH, SOURCE))
        tokens = torch.cat((torch.randint(4, 4004, (BATCH, TARGET - 1)), torch.full((BATCH, 1), END)), 1)
        targets = [Target(tokens=row) for row in tokens]

        def peer_loss(peer: Peer, source: Tensor, tokens: Tensor) -> Tensor:
            logits = peer.logits(peer.encode(source), source == PAD, shifted(tokens))
            return nn.functional.cross_entropy(
                logits.flatten(0, 1), tokens.flatten(), ignore_index=PAD, label_smoothing=0.1
            )

        losses = {
            "torch": partial(peer_loss, peer, source, tokens),
            "ours": lambda ours=ours, source=source, targets=targets: ours.loss(source, targets)["loss"],
        }
        a, b = (float(loss().detach()) for loss in losses.values())
        assert abs(a - b) < 1e-4 * a, (a, b)
        report(
            name,
            "training step",
            {
                key: partial(step, model, torch.optim.AdamW(model.parameters(), 0.0, fused=True), losses[key])
                for key, model in (("torch", peer), ("ours", ours))
            },
            options.repeats,
        )
        peer.eval()
        ours.eval()
        with torch.inference_mode():
            assert torch.equal(peer.search(source), our_search(ours, source))
            searches = {"torch": partial(peer.search, source), "ours": partial(our_search, ours, source)}
            report(name, "beam search", searches, options.repeats)


def report(size: str, what: str, functions: dict, repeats: int) -> None:
    times = take_turns(functions, repeats, time.process_time)
    torchs, ours = times["torch"], times["ours"]
    print(f"| {size} | {what} | {1e3 * torchs:.0f} | {1e3 * ours:.0f} | {torchs / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
