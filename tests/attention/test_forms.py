"""What holds for every form of attention: gradients, masks, half precision, leading dimensions and export."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vertebra.attention.coupled import CoupledAttention
from vertebra.attention.dynamic_memory import EpisodicMemory
from vertebra.attention.end_to_end_memory import MemoryNetwork
from vertebra.attention.hard import HardAttention
from vertebra.attention.hierarchical import HierarchicalAttention
from vertebra.attention.local import LocalMonotonicAttention, LocalPredictiveAttention
from vertebra.attention.nested import NestedAttention
from vertebra.attention.scores import Additive, Bilinear
from vertebra.attention.soft import SoftAttention
from vertebra.attention.structured import StructuredAttention

LEADING = (2, 2)


def nested() -> nn.Module:
    return NestedAttention(Additive(3, 4, 5), Bilinear(2, 3))


PAIR = [(*LEADING, 3, 3), (*LEADING, 6, 4), (*LEADING, 6, 2)]  # query, key and value
FORMS: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]], tuple[int, ...]]] = {
    # how it is made, the shapes of its inputs, and that of its mask
    "structured": (lambda: StructuredAttention(4, 3, 2), [(*LEADING, 6, 4)], (*LEADING, 1, 6)),
    "hierarchical": (lambda: HierarchicalAttention(3, 2), [(*LEADING, 2, 3, 3)], (*LEADING, 2, 3)),
    "coupled": (lambda: CoupledAttention(3, 2, 2), [(*LEADING, 4, 3)], (*LEADING, 4)),
    "nested": (nested, [*PAIR, (*LEADING, 3, 2, 2), (*LEADING, 6, 4, 3)], (*LEADING, 1, 6)),
    "local-m": (lambda: LocalMonotonicAttention(Additive(3, 4, 5), 2), PAIR, (*LEADING, 1, 6)),
    "local-m, fused": (lambda: LocalMonotonicAttention(Bilinear(3, 4), 2), PAIR, (*LEADING, 1, 6)),
    "local-p": (lambda: LocalPredictiveAttention(Additive(3, 4, 5), 3, 2), PAIR, (*LEADING, 1, 6)),
    "soft": (lambda: SoftAttention(Additive(3, 4, 5), 3), PAIR, (*LEADING, 1, 6)),
    "hard": (lambda: HardAttention(Bilinear(3, 4)), PAIR, (*LEADING, 1, 6)),
    "dynamic memory": (lambda: EpisodicMemory(3, 2), [(2, 4, 3), (2, 3)], (2, 4)),
}


def outputs(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    result = module(*inputs)
    return (result,) if isinstance(result, Tensor) else tuple(result)


def made(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, list[Tensor], Tensor]:
    """The form, its inputs, and a mask that leaves out the last column."""
    torch.manual_seed(0)
    make, shapes, mask_shape = FORMS[name]
    mask = torch.ones(mask_shape, dtype=torch.bool)
    mask[..., -1] = False
    return make().to(dtype), [torch.randn(shape, dtype=dtype) for shape in shapes], mask


@pytest.mark.parametrize("name", FORMS)
def test_gradients(name):
    module, inputs, mask = made(name, torch.float64)
    inputs = [x[0].requires_grad_() if len(x) == 2 and name != "dynamic memory" else x.requires_grad_() for x in inputs]
    mask = mask if name == "dynamic memory" else mask[0]
    leaves = [x.detach().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: outputs(module, *x, mask), leaves)
    if name != "hard":  # whose score learns by Reinforce
        sum(y.sum() for y in outputs(module, *inputs, mask)).backward()
        assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masked_inputs_do_not_matter_and_a_full_mask_is_finite(name, dtype):
    module, inputs, mask = made(name, dtype)
    with torch.no_grad():
        expected = outputs(module, *inputs, mask)
        for y in outputs(module, *inputs, torch.zeros_like(mask)):
            assert y.isfinite().all()
            if name not in ("coupled", "dynamic memory"):  # whose output is no mean of values
                assert not y.any()
        masked = inputs[0] if name in ("structured", "hierarchical", "coupled", "dynamic memory") else inputs[1]
        axis = -3 if masked is inputs[0] and name == "hierarchical" else -2
        if name == "hierarchical":
            masked[..., -1, :] = 7
        else:
            masked.select(axis, -1).fill_(7)
        actual = outputs(module, *inputs, mask)
    for a, b in zip(actual, expected, strict=True):
        if name == "coupled":
            a, b = a[..., :-1, :], b[..., :-1, :]
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", [name for name in FORMS if name != "dynamic memory"])
def test_leading_dimensions_are_a_batch(name):
    module, inputs, mask = made(name)
    with torch.no_grad():
        batch = outputs(module, *inputs, mask)
        for a, b in zip(batch, outputs(module, *(x[1, 0] for x in inputs), mask[1, 0]), strict=True):
            torch.testing.assert_close(a[1, 0], b)


@pytest.mark.parametrize("name", FORMS)
def test_export(name):
    module, inputs, mask = made(name)
    arguments = (*inputs, mask)
    exported = torch.export.export(module.eval(), arguments).module()
    for a, b in zip(outputs(exported, *arguments), outputs(module, *arguments), strict=True):
        torch.testing.assert_close(a, b)


def test_export_of_a_memory_network():
    network = MemoryNetwork(9, 4, 2).eval()
    arguments = torch.randint(1, 9, (2, 3, 2)), torch.randint(1, 9, (2, 2))
    exported = torch.export.export(network, arguments).module()
    torch.testing.assert_close(exported(*arguments), network(*arguments))


def test_gradients_of_a_memory_network():
    torch.manual_seed(0)
    for tying in ("adjacent", "layer-wise"):
        network = MemoryNetwork(5, 2, 2, tying, memories=3).double()
        story, question = torch.randint(1, 5, (3, 2)), torch.randint(1, 5, (2,))
        names, values = zip(*network.named_parameters())

        def answer(*values, network=network, names=names, story=story, question=question):
            return torch.func.functional_call(network, dict(zip(names, values)), (story, question))

        assert torch.autograd.gradcheck(answer, values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_story_without_sentences_is_finite(dtype):
    network = MemoryNetwork(5, 2, 2).to(dtype)
    story, question = torch.zeros(2, 3, 2, dtype=torch.long), torch.ones(2, 2, dtype=torch.long)
    assert network(story, question).isfinite().all()
    assert not network.weights(story, question).any()
