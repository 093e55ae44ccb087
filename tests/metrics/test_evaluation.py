"""Results of evaluations."""

from vertebra.metrics.evaluation import Evaluation, Worst, written
from vertebra.structures import Prediction

ERRORS = [0.0, 0.6, 0.9, 0.0, 0.8, 0.9]


def rows() -> list[dict]:
    return [{"index": 10 + i, "error": error} for i, error in enumerate(ERRORS)]


def test_worst_have_the_largest_errors():
    evaluation = Evaluation({}, rows())
    assert [row["index"] for row in evaluation.worst(2)] == [12, 15]
    assert [row["index"] for row in evaluation.worst(9)] == [12, 15, 14, 11]


def test_only_predictions_of_the_worst_are_kept():
    for count in range(1, 7):
        worst = Worst(count)
        for row in rows():
            worst.add(row, Prediction(path=str(row["index"])))
            assert len(worst.heap) <= count
        expected = {row["index"]: str(row["index"]) for row in Evaluation({}, rows()).worst(count)}
        assert {index: prediction.path for index, prediction in worst.predictions().items()} == expected


def test_numbers_have_names_and_an_order():
    evaluation = Evaluation({"b": 2.0, "a": 1.0, "list": []}, [], names={"a": "first", "gone": "gone", "b": "last"})
    assert list(evaluation.numbers.items()) == [("first", 1.0), ("last", 2.0)]


def test_numbers_in_tables():
    assert [written(v) for v in (0.12345, 12, None)] == ["0.123", "12", "–"]
    assert written(0.12345, 4) == "0.1235"


def test_one_line():
    evaluation = Evaluation({"top1": 0.5, "confusion": [[1] * 80] * 80}, rows(), names={"top1": "top-1 accuracy"})
    assert repr(evaluation) == "Evaluation(6 images: top-1 accuracy 0.5000)"
