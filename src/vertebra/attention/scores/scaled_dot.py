"""Do query and key point the same way, whatever their width?

    score(q, k) = q . k / sqrt(D)

q, k: [D]. If their components are independent, of mean 0 and variance 1, so is the score, and the softmax does not
saturate as D grows.

Source: Attention Is All You Need, arXiv:1706.03762, section 3.2.1 and equation 1.
"""

from torch import Tensor

from vertebra.attention.scores.product import Factors, Product


class ScaledDot(Product):
    """[..., Q, D] and [..., K, D] -> [..., Q, K].

    Source: arXiv:1706.03762, equation 1.
    """

    def factors(self, query: Tensor, key: Tensor) -> Factors:
        return Factors(query, key)
