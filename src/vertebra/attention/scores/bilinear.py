"""Do query and key match after a learned map from one space into the other?

    score(q, k) = q^T W k

q: [D]; k: [D'], the widths may differ; W: [D, D'], learned.

Source: Effective Approaches to Attention-based Neural Machine Translation, arXiv:1508.04025, section 3.1, `general`.
"""

from torch import Tensor, nn

from vertebra.attention.scores.product import Factors, Product


class Bilinear(Product):
    """[..., Q, D] and [..., K, D'] -> [..., Q, K].

    Source: arXiv:1508.04025, section 3.1.
    """

    def __init__(self, query_width: int, key_width: int) -> None:
        super().__init__()
        self.map = nn.Linear(query_width, key_width, bias=False)  # its weight is W^T

    def factors(self, query: Tensor, key: Tensor) -> Factors:
        return Factors(self.map(query), key, 1.0)
