"""Do query and key point the same way, and are they long?

    score(q, k) = q . k

q, k: [D], of one width. There are no parameters; scores grow with the width, see `scaled_dot`.

Source: Effective Approaches to Attention-based Neural Machine Translation, arXiv:1508.04025, section 3.1, `dot`.
"""

from torch import Tensor

from vertebra.attention.scores.product import Factors, Product


class Dot(Product):
    """[..., Q, D] and [..., K, D] -> [..., Q, K].

    Source: arXiv:1508.04025, section 3.1.
    """

    def factors(self, query: Tensor, key: Tensor) -> Factors:
        return Factors(query, key, 1.0)
