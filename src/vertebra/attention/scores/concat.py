"""Do query and key match, as a small network sees the two in one vector?

    score(q, k) = v^T tanh(W [q; k])

q: [D]; k: [D']; [q; k]: [D + D']; W: [hidden, D + D'], v: [hidden], learned.

It is the additive score with W and U side by side in one matrix, initialised as one.

Source: Effective Approaches to Attention-based Neural Machine Translation, arXiv:1508.04025, section 3.1, `concat`.
"""

from torch import Tensor, nn


class Concat(nn.Module):
    """[..., Q, D] and [..., K, D'] -> [..., Q, K].

    Source: arXiv:1508.04025, section 3.1.
    """

    def __init__(self, query_width: int, key_width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(query_width + key_width, hidden, bias=False)  # W
        self.sum = nn.Linear(hidden, 1, bias=False)  # v

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        # By its columns of each part, W need not be applied to every pair.
        for_query, for_key = self.hidden.weight.split((query.shape[-1], key.shape[-1]), 1)
        hidden = (query @ for_query.T).unsqueeze(-2) + (key @ for_key.T).unsqueeze(-3)  # [..., Q, K, hidden]
        scores: Tensor = self.sum(hidden.tanh()).squeeze(-1)
        return scores
