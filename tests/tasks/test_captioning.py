"""Captioners: what they compute and learn, and how it is drawn."""

import pytest
import torch

from vertebra import export, kinds
from vertebra.attention import coverage_penalty
from vertebra.data.formats import shapes
from vertebra.errors import VertebraError
from vertebra.structures import Preprocess, Target
from vertebra.text import END, PAD, Vocabulary

CAPTIONS = ("a red circle", "a blue star below a red circle")
WORDS = Vocabulary.learn(CAPTIONS, "word", 40)


@pytest.fixture
def captioner(make):
    def create(method, **chosen):
        preprocess = Preprocess((32, 32), resize="squash")
        options = {"classes": ("caption",), "vocabulary": WORDS.content, "width": 16, "dropout": 0.0, **chosen}
        return make("captioning", method, preprocess=preprocess, **options)

    return create


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TARGETS = [Target(text=text, tokens=WORDS.encode_ended(text)) for text in CAPTIONS]


@pytest.mark.parametrize("method", ["soft_attention", "hard_attention"])
def test_it_learns_the_captions_of_two_maps(captioner, method, monkeypatch):
    model = captioner(method).train()
    maps = torch.randn(2, 16, 2, 2)
    monkeypatch.setattr(model, "cells_of", lambda images: maps.flatten(2).transpose(1, 2))
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    for _ in range(60):
        loss = sum(model.loss(IMAGES, TARGETS).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        predictions = model.eval().decode((maps,), [])
    assert [prediction.text for prediction in predictions] == list(CAPTIONS)
    assert predictions[0].words == ("a", "red", "circle", "[EOS]")
    assert predictions[0].looks.shape == (4, 2, 2)
    metrics = model.metrics()
    metrics.update(predictions, TARGETS)
    assert metrics.compute()["exact"] == 1


@pytest.mark.parametrize("method", ["soft_attention", "hard_attention"])
def test_steps_are_what_teacher_forcing_computes(captioner, method):
    model = captioner(method).eval()
    cells, tokens = torch.randn(2, 6, 16), torch.tensor([[4, 5, END], [6, END, PAD]])
    with torch.no_grad():
        logits, queries, _ = model.teacher_forced(cells, tokens)
        weights = model.attention.weights(queries, cells)
        state = model.start(cells)
        for step, last in enumerate(torch.tensor([[2, 2], [4, 6], [5, END]])):
            of_step, look, state = model._step(last, state, {"cells": cells})
            torch.testing.assert_close(of_step, logits[:, step])
            torch.testing.assert_close(look, weights[:, step])
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))


def test_losses_by_hand(captioner):
    """Padding counts nowhere; the reward of hard attention is the log-likelihood of the caption."""
    soft = captioner("soft_attention", penalty=0.5).eval()
    with torch.no_grad():
        losses = soft.loss(IMAGES, TARGETS)
        cells, tokens = soft.cells_of(IMAGES), torch.nn.utils.rnn.pad_sequence([t.tokens for t in TARGETS], True)
        logits, queries, _ = soft.teacher_forced(cells, tokens)
        weights = soft.attention.weights(queries, cells)
        log_p = logits.log_softmax(-1).gather(2, tokens[..., None])[..., 0]
        mask = tokens != PAD
        torch.testing.assert_close(losses["caption"], -log_p[mask].mean())
        expected = torch.stack([coverage_penalty(w[m]) for w, m in zip(weights, mask, strict=True)]).mean()
        torch.testing.assert_close(losses["penalty"], 0.5 * expected / weights.shape[2])
        hard = captioner("hard_attention", reward_weight=1.0, entropy_weight=0.0).train()
        hard.reinforce.baseline.fill_(-3.0)
        hard.loss(IMAGES, TARGETS)
        assert float(hard.reinforce.baseline) != -3.0
        assert not hard.eval().loss(IMAGES, TARGETS)["reinforce"]  # nothing is drawn


def test_captions_of_the_shapes(monkeypatch):
    """They name both objects, and how the first lies to the second."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 12, "val": 2})
    catalogue = kinds.find("captions").open("shapes")
    assert catalogue.has == {"text"}
    for number, sample in enumerate(catalogue.splits["train"]):
        _, drawn = shapes.draw(0, number, shapes.SIZE, shapes.CAPTIONED)
        assert drawn.text == sample.target.text
        assert sample.target.boxes is None
        names = [shapes.CLASSES[i] for i in drawn.labels]
        first, *rest = sample.target.text.split(" a ")
        assert first.endswith(("left of", "right of", "above", "below")) or not rest
        assert [part.split()[i] for part, i in zip((first.removeprefix("a "), *rest), (1, 1), strict=False)] == names
        if rest:
            (x1, y1), (x2, y2) = (drawn.boxes[:, :2] + drawn.boxes[:, 2:]).tolist()
            relation = " ".join(first.split()[3:])
            assert {"left of": x1 < x2, "right of": x1 > x2, "above": y1 < y2, "below": y1 > y2}[relation]


def test_a_sample_of_the_shapes_is_learned_from(captioner, monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 2, "val": 1})
    kind = kinds.find("captions")
    catalogue = kind.open("shapes")
    model = captioner("soft_attention", **kind.model_options(catalogue))
    (sample, _) = kind.samples(catalogue, "train", model)
    transform = kind.transform(kind.augment(), model.preprocess)
    image, target = transform(kind.inputs(model.preprocess).read(sample), pytest.fail)
    assert image.shape == (3, 32, 32)
    assert model.vocabulary.decode(target.tokens) == sample.target.text
    assert model.loss(torch.stack([image, -image]), [target, target])["caption"] > 0


def test_it_is_not_exported(captioner, tmp_path):
    with pytest.raises(VertebraError, match="a model for captioning searches its answers with weights of its own"):
        export.export(captioner("soft_attention").eval(), tmp_path / "a.onnx")


def test_words_are_drawn_where_the_model_looks(captioner):
    model = captioner("soft_attention").eval()
    kind = kinds.find("captions")
    image = torch.full((3, 64, 48), 200, dtype=torch.uint8)
    prediction = model.predict([image])[0]
    drawn = kind.draw(image, prediction, model.classes)
    assert drawn.height > 256
    record = kind.record(prediction, model.classes)
    assert record["caption"] == prediction.text
    assert [word["word"] for word in record["words"]] == list(prediction.words)
    assert kind.flip(prediction, 48).looks.shape == prediction.looks.shape
