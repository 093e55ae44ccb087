"""Do query and key match, as a small network with one hidden layer sees it?

    score(q, k) = v^T tanh(W q + U k)

q: [D]; k: [D'], the widths may differ; W: [hidden, D], U: [hidden, D'], v: [hidden], learned.

Memory is Q * K * hidden numbers, against Q * K of the products.

Source: Neural Machine Translation by Jointly Learning to Align and Translate, arXiv:1409.0473, section A.1.2.
"""

from torch import Tensor, nn


class Additive(nn.Module):
    """[..., Q, D] and [..., K, D'] -> [..., Q, K].

    Source: arXiv:1409.0473, section A.1.2.
    """

    def __init__(self, query_width: int, key_width: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, hidden, bias=False)  # W
        self.key = nn.Linear(key_width, hidden, bias=False)  # U
        self.sum = nn.Linear(hidden, 1, bias=False)  # v

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        hidden = self.query(query).unsqueeze(-2) + self.key(key).unsqueeze(-3)  # [..., Q, K, hidden]
        scores: Tensor = self.sum(hidden.tanh()).squeeze(-1)
        return scores
