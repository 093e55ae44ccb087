"""Squeeze-and-excitation."""

import torch

from vertebra.nn.squeeze_excite import SqueezeExcite


def test_exported_it_is_made_of_convolutions_and_computes_the_same():
    """NNCF fails on a matrix product whose weight is a reshaped one."""
    torch.manual_seed(0)
    module, images = SqueezeExcite(8, 2).eval(), torch.randn(2, 8, 5, 4)
    program = torch.export.export(module, (images.clone(),), strict=False)
    called = {str(node.target) for node in program.graph.nodes}
    assert "aten.conv2d.default" in called
    assert "aten.linear.default" not in called
    with torch.no_grad():
        assert torch.allclose(program.module()(images.clone()), module(images.clone()), atol=1e-6)
