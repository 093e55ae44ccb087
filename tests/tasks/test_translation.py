"""Translators: what they compute, learn, search and refuse."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from vertebra import tasks
from vertebra.errors import VertebraError
from vertebra.structures import Frame, Target
from vertebra.tasks.translation import recurrent
from vertebra.text import BEGIN, END, PAD, Vocabulary

SENTENCES = ["abc", "ca", "bbca", "a"]
CHARACTERS = Vocabulary.learn(SENTENCES, "character", 20)
VOCABULARIES = {"source_vocabulary": CHARACTERS.content, "target_vocabulary": CHARACTERS.content}
SMALL = {"transformer": {"width": 16, "heads": 2, "depth": 2, "feedforward": 32}, "recurrent": {"width": 16}}


def make(method, **chosen):
    torch.manual_seed(0)
    return tasks.create("translation", method=method, **VOCABULARIES, **SMALL[method], dropout=0.0, **chosen)


def ids(sentence):
    return torch.cat((CHARACTERS.encode(sentence), torch.tensor([END])))


SOURCES = pad_sequence([ids(s) for s in SENTENCES], batch_first=True, padding_value=PAD)
TARGETS = [Target(text=s[::-1], tokens=ids(s[::-1])) for s in SENTENCES]
RECURRENT = [
    *({"score": score} for score in recurrent.SCORES),
    {"cell": "lstm", "depth": 2},
    {"window": "local_monotonic", "half_window": 2},
    {"window": "local_predictive", "half_window": 2},
]
MODELS = [
    *(("recurrent", options) for options in RECURRENT),
    *(("recurrent", {**options, "input_feeding": False}) for options in ({}, {"cell": "lstm"}, RECURRENT[-2])),
    *(("transformer", options) for options in ({}, {"norm": "post"}, {"tied": "all"}, {"tied": "none"})),
]


@pytest.mark.parametrize(("method", "options"), MODELS)
def test_steps_are_what_teacher_forcing_computes(method, options):
    """Token by token, with what is kept between steps, and padded sources: the same logits and the same attention."""
    model = make(method, coverage_penalty=1.0, **options).eval()
    mask, tokens = SOURCES != PAD, torch.tensor([[BEGIN, 4, 5, 6]]).expand(4, -1)
    with torch.no_grad():
        memory, _ = model(SOURCES)
        together = model.teacher_forced(memory, mask, tokens)
        alignment = model.align(memory, mask, tokens)
        state, context = model.start(memory, mask)
        for i in range(tokens.shape[1]):
            logits, weights, state = model.step(tokens[:, i], state, context)
            torch.testing.assert_close(logits, together[:, i], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(weights, alignment[:, -1].mean(1)[:, i], atol=1e-5, rtol=1e-5)
        alone, _ = model(ids("ca")[None])  # without padding
        torch.testing.assert_close(memory[1, :3], alone[0], atol=1e-5, rtol=1e-5)
        single = model.teacher_forced(alone, torch.ones(1, 3, dtype=torch.bool), tokens[:1])
        torch.testing.assert_close(together[1:2], single, atol=1e-5, rtol=1e-5)
    assert not alignment.masked_select(~mask[:, None, None, None].expand_as(alignment)).any()
    expected = (4, 2, 2, 4, 5) if method == "transformer" else (4, 1, 1, 4, 5)
    assert alignment.shape == expected


@pytest.mark.parametrize("method", SMALL)
def test_it_learns_to_reverse(method):
    model = make(method).train()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(60):
        loss = model.loss(SOURCES, TARGETS)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predictions = model.predict(SENTENCES)
    assert [prediction.text for prediction in predictions] == [s[::-1] for s in SENTENCES]
    assert predictions[0].alignment.source == ("a", "b", "c", "[EOS]")
    assert predictions[0].alignment.target == ("c", "b", "a", "[EOS]")
    assert predictions[0].alignment.matrix.sum(1).tolist() == pytest.approx([1] * 4)
    metrics = model.metrics()
    metrics.update(predictions, TARGETS)
    assert metrics.compute()["exact"] == 1


def test_the_transformer_is_torchs():
    """The layers of `torch.nn.Transformer`, with its weights, compute the same."""
    model = make("transformer").eval()
    theirs = nn.Transformer(16, 2, 2, 2, 32, dropout=0.0, batch_first=True, norm_first=True).eval()
    state = {}
    for side in ("encoder", "decoder"):
        for i, layer in enumerate(getattr(model, side)):
            name = f"{side}.layers.{i}"
            parts = {"norm1": layer.around_attention.norm, "linear1": layer.feedforward.expand}
            parts["linear2"] = layer.feedforward.project
            parts["norm2" if side == "encoder" else "norm3"] = layer.around_feedforward.norm
            parts["self_attn.out_proj"] = layer.attention.project
            for key in ("weight", "bias"):
                state[f"{name}.self_attn.in_proj_{key}"] = getattr(layer.attention.qkv, key)
            if side == "decoder":
                parts |= {"norm2": layer.around_source.norm, "multihead_attn.out_proj": layer.source_attention.project}
                for key in ("weight", "bias"):
                    joined = [getattr(getattr(layer.source_attention, part), key) for part in ("query", "key", "value")]
                    state[f"{name}.multihead_attn.in_proj_{key}"] = torch.cat(joined)
            state |= {
                f"{name}.{part}.{key}": value for part, m in parts.items() for key, value in m.state_dict().items()
            }
        for key, value in getattr(model, f"{side}_norm").state_dict().items():
            state[f"{side}.norm.{key}"] = value
    theirs.load_state_dict(state)
    padding = SOURCES == PAD
    tokens = torch.tensor([[BEGIN, 4, 5]]).expand(4, -1)
    with torch.no_grad():
        source = model._embed(model.source_embedding, SOURCES)
        target = model._embed(model.target_embedding, tokens)
        causal = nn.Transformer.generate_square_subsequent_mask(3).isinf()
        expected = theirs(
            source,
            target,
            tgt_mask=causal,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        logits = nn.functional.linear(expected, model.target_embedding.weight)
        torch.testing.assert_close(
            model.teacher_forced(model(SOURCES)[0], ~padding, tokens), logits, atol=1e-5, rtol=1e-5
        )


def test_the_loss_ignores_padding_and_smooths_labels():
    """Padding of the targets changes nothing; with smoothing s, the loss is (1 - s) * nll + s * mean(-log p)."""
    model = make("recurrent", label_smoothing=0.1).eval()
    with torch.no_grad():
        alone = model.loss(SOURCES[1:2], TARGETS[1:2])["loss"]
        memory, mask = model(SOURCES[1:2])[0], SOURCES[1:2] != PAD
        logits = model.teacher_forced(memory, mask, torch.tensor([[BEGIN, *TARGETS[1].tokens[:-1].tolist()]]))[0]
        log_p = logits.log_softmax(-1)
        nll = -log_p.gather(1, TARGETS[1].tokens[:, None]).mean()
        assert float(alone) == pytest.approx(float(0.9 * nll - 0.1 * log_p.mean()), rel=1e-5)
        together = float(model.loss(SOURCES, TARGETS)["loss"])
        singles = [float(model.loss(SOURCES[i : i + 1], TARGETS[i : i + 1])["loss"]) for i in range(4)]
    counts = [len(target.tokens) for target in TARGETS]
    assert together == pytest.approx(sum(s * n for s, n in zip(singles, counts, strict=True)) / sum(counts), rel=1e-4)


def test_what_is_refused():
    model = make("recurrent")
    with pytest.raises(VertebraError, match=r"sources are .*; they must be ids \[B, S\] int64 of tokens, below 7"):
        model.loss(torch.zeros(2, 3, 8, 8), TARGETS[:2])
    with pytest.raises(VertebraError, match="sources have the id 99"):
        model.infer(torch.full((1, 2), 99), [Frame((1, 2), (1, 2))])
    with pytest.raises(VertebraError, match="target 0: tokens must be ids below 7"):
        model.loss(SOURCES[:1], [Target(tokens=torch.tensor([99]))])
    with pytest.raises(VertebraError, match=r"target 0 has no tokens"):
        model.loss(SOURCES[:1], [Target()])
    with pytest.raises(VertebraError, match="sentence 2 is empty"):
        model.predict(["a", " "])
    with pytest.raises(VertebraError, match="sentence 1 has 2,000 tokens, more than 1,024"):
        model.predict("a" * 2000)
    with pytest.raises(VertebraError, match="the vocabularies differ"):
        tasks.create("translation", tied="all", source_vocabulary=CHARACTERS.content)
    with pytest.raises(VertebraError, match="heads is 3"):
        tasks.create("translation", heads=3)
