"""Text classifiers: what they compute, learn and refuse."""

import pytest
import torch

from vertebra import kinds, tasks
from vertebra.attention import overlap_penalty
from vertebra.data.formats import reviews
from vertebra.errors import VertebraError
from vertebra.structures import Alignment, Prediction, Target
from vertebra.tasks.text_classification.memory_network import MemoryClassifier
from vertebra.text import Vocabulary

TEXTS = ["Mary has the ball. Mary is here!\tWhere is Mary?", "John left.\tWho?"]
WORDS = Vocabulary.learn([*TEXTS, "the big hall"], "word", 40)
METHODS = tasks.methods("text_classification")
SMALL = {"width": 8, "dropout": 0.0}


def make(method, **chosen):
    torch.manual_seed(0)
    options = {"vocabulary": WORDS.content, "classes": ("here", "big hall"), **SMALL, **chosen}
    return tasks.create("text_classification", method=method, **options).eval()


@pytest.mark.parametrize("method", METHODS)
def test_padding_changes_nothing_and_weights_sum_to_one(method):
    model = make(method)
    together = model.predict(TEXTS)
    alone = model.predict(TEXTS[1])[0]
    torch.testing.assert_close(together[1].probabilities, alone.probabilities)
    torch.testing.assert_close(together[1].alignment.weights, alone.alignment.weights)
    assert alone.alignment.source == ("Who", "?", "John", "left", ".")
    assert alone.alignment.target == (model.classes[int(alone.probabilities.argmax())],)
    weights = together[0].alignment.weights
    assert weights.shape[2:] == (1, 13)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))


def test_structured_reads_the_words_in_their_order_and_penalises_overlap():
    """A text as one row or as several is the same to it."""
    model = make("structured", hops=3, penalty=0.5)
    rows = model.text_ids("Mary has the ball. Mary is here!", "a")
    logits, weights = model.read(rows[None], rows[None] != 0)
    flat = rows[rows != 0][None, None]
    together, row = model.read(flat, flat != 0)
    torch.testing.assert_close(logits, together)
    torch.testing.assert_close(weights[0, 0][:, rows != 0], row[0, 0, :, 0])
    loss = model.loss(rows[None], [Target(label=torch.tensor(1))])
    torch.testing.assert_close(loss["penalty"], 0.5 * overlap_penalty(row[0, 0, :, 0]))


def test_answers_of_several_words_are_the_mean_of_them():
    model = make("memory_network", hops=2)
    ids = model.text_ids(TEXTS[0], "a")
    logits = model.network(ids[None, 1:], ids[0][None])[0]
    here, big, hall = (logits[WORDS.ids(word)[0]] for word in ("here", "big", "hall"))
    torch.testing.assert_close(model(ids[None])[0][0], torch.stack([here, (big + hall) / 2]))


def test_sentences_of_a_text():
    """They end with a mark before a space, or with the line; of a long one the rest is another."""
    rows, places = WORDS.encode_text("Mary left 3.5 km. Here\n  John! ")
    text = "Mary left 3.5 km. Here\n  John! "
    assert [[text[a:b] for a, b in places][i] for i in (0, 5, 7, 8)] == ["Mary", "km", "Here", "John"]
    assert [len(row) for row in rows] == [7, 1, 2]
    assert [len(row) for row in WORDS.encode_text("a " * 250)[0]] == [100, 100, 50]


def test_attention_learns_the_words_that_decide(monkeypatch):
    monkeypatch.setattr(reviews, "COUNTS", {"train": 400, "val": 50})
    kind = kinds.find("text_category")
    catalogue = kind.open("reviews")
    model = make("hierarchical", classes=catalogue.classes, width=32, hidden=16, **kind.model_options(catalogue))
    samples = {split: kind.samples(catalogue, split, model) for split in ("train", "val")}
    optimizer = torch.optim.AdamW(model.train().parameters(), 0.01)
    for batch in torch.randint(400, (70, 16)).tolist():
        chosen = [samples["train"][i] for i in batch]
        loss = model.loss(kind.inputs(None).stack([s.image for s in chosen]), [s.target for s in chosen])
        optimizer.zero_grad()
        loss["classification"].backward()
        optimizer.step()
    metrics = model.metrics()
    metrics.update(model.predict([sample.source for sample in samples["val"]]), [s.target for s in samples["val"]])
    values = metrics.compute()
    assert values["top1"] > 0.95
    assert values["attention"] > 0.9


def test_attention_accuracy_by_hand():
    """Of three right classes, one looks at a deciding word most and one has no known words; a wrong one is left out."""
    model = make("hierarchical")
    weights = torch.tensor([0.1, 0.7, 0.2])[None, None, None]
    predictions = [
        Prediction(probabilities=torch.tensor(p), alignment=Alignment(("a", "b", "c"), ("x",), weights))
        for p in ([0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9])
    ]
    known = [[False, True, True], [True, False, True], None, [False, False, True]]
    targets = [Target(label=torch.tensor(0), alignment=None if key is None else torch.tensor([key])) for key in known]
    metrics = model.metrics()
    metrics.update(predictions, targets)
    assert metrics.compute()["attention"] == 0.5
    assert metrics.compute()["top1"] == 0.75
    metrics.reset()
    metrics.update(predictions[2:3], targets[2:3])
    assert "attention" not in metrics.compute()


def test_what_is_refused():
    model = make("memory_network", memories=1)
    with pytest.raises(VertebraError, match=r"texts are .*; they must be ids \[B, sentences, words\] int64, below"):
        model.loss(torch.zeros(2, 3, 8, 8), [Target(label=torch.tensor(0))] * 2)
    with pytest.raises(VertebraError, match="texts have the id 99"):
        model.loss(torch.full((1, 2, 2), 99), [Target(label=torch.tensor(0))])
    with pytest.raises(
        VertebraError, match="sentence 1 has no question: in a table it is the column question, in a line"
    ):
        model.predict("Mary is here.")
    with pytest.raises(VertebraError, match="sentence 1 has 2 sentences; the memory holds 1: raise memories"):
        model.predict(TEXTS[0])
    with pytest.raises(VertebraError, match="sentence 2 is empty"):
        make("hierarchical").predict(["a", " "])
    with pytest.raises(VertebraError, match="a has 10,001 tokens, more than 10,000"):
        make("structured").text_ids("a " * 10_001, "a")
    assert MemoryClassifier.needs_question
