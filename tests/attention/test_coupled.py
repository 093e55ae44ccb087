import math

import torch

from vertebra.attention.coupled import CoupledAttention


def test_two_layers_by_hand():
    """Width 1 and one slice; the GRUs are tanh of their input: without an update gate, r_i = tanh(b_i)."""
    attention = CoupledAttention(1, tensors=1, layers=2)
    for gru in attention.grus:
        gru.weight_ih_l0.data = torch.cat([torch.zeros(4, 2), torch.eye(2)])
        gru.weight_hh_l0.data.zero_()
        gru.bias_hh_l0.data.zero_()
        gru.bias_ih_l0.data = torch.tensor([0, 0, -1e4, -1e4, 0, 0])
    u = {"aspect": 0.5, "opinion": -1.0}
    same, other = {"aspect": 1.0, "opinion": 2.0}, {"aspect": -0.5, "opinion": 0.25}  # G and D
    v = {"aspect": (3.0, 1.0), "opinion": (-2.0, 1.5)}
    transition = {"aspect": 0.7, "opinion": -0.3}
    attention.prototypes.data = torch.tensor([[u["aspect"]], [u["opinion"]]])
    attention.tensors.data = torch.tensor([[same[m], other[m]] for m in u]).view(2, 2, 1, 1, 1)
    attention.scores.data = torch.tensor([v[m] for m in u])
    attention.transitions.data = torch.tensor([transition[m] for m in u]).view(2, 1, 1)

    words = (1.0, -2.0, 0.5)
    features = {m: [[0.0, 0.0] for _ in words] for m in u}
    weights = []
    for _ in range(2):
        following = {}
        for m, n in (("aspect", "opinion"), ("opinion", "aspect")):
            states = [
                [math.tanh(math.tanh(h * same[m] * u[m])), math.tanh(math.tanh(h * other[m] * u[n]))] for h in words
            ]
            exponentials = [math.exp(v[m][0] * r[0] + v[m][1] * r[1]) for r in states]
            shares = [e / sum(exponentials) for e in exponentials]
            weights.append(shares)
            attended = sum(a * h for a, h in zip(shares, words))
            following[m] = math.tanh(transition[m] * u[m]) + attended
            features[m] = [[a + b for a, b in zip(*pair)] for pair in zip(features[m], states)]
        u = following

    x = torch.tensor(words).view(1, 3, 1)
    torch.testing.assert_close(attention(x)[0], torch.tensor([features["aspect"], features["opinion"]]))
    torch.testing.assert_close(attention.weights(x)[0].flatten(0, 1), torch.tensor(weights))


def test_slices_are_bilinear_forms():
    """b_i of slice k is tanh(h^T G_k u), with the matrix this way round."""
    torch.manual_seed(0)
    attention = CoupledAttention(3, tensors=2, layers=1)
    seen = []
    attention.grus[0].register_forward_pre_hook(lambda gru, inputs: seen.append(inputs[0]))
    h = torch.randn(3)
    attention(h[None])
    u, (g, d) = attention.prototypes, attention.tensors[0]
    expected = torch.stack([h @ g[0] @ u[0], h @ g[1] @ u[0], h @ d[0] @ u[1], h @ d[1] @ u[1]]).tanh()
    torch.testing.assert_close(seen[0].flatten(), expected)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    attention = CoupledAttention(3, tensors=2, layers=3)
    x = torch.randn(2, 4, 3)
    mask = torch.tensor([True, True, False, False])
    torch.testing.assert_close(attention(x, mask)[..., :2, :], attention(x[:, :2]))
