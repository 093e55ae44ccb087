"""Where does the query look, whatever is there?

    a = softmax(W q)

q: [D]; W: [length, D], learned; a: [length], the weights. Keys are only counted. So there is a longest sequence, the
rows of W; of a shorter one the first rows are used, and of a longer one the keys after that have weight 0.

This is not location-sensitive attention (Chorowski et al., arXiv:1506.07503), which adds features of the previous
step's weights, by a convolution, to the additive score.

Source: Effective Approaches to Attention-based Neural Machine Translation, arXiv:1508.04025, equation 8 and footnote.
"""

from torch import Tensor, nn


class Location(nn.Module):
    """[..., Q, D] and K keys -> [..., Q, K]; -inf for keys at `length` and after.

    Source: arXiv:1508.04025, equation 8.
    """

    def __init__(self, query_width: int, length: int) -> None:
        super().__init__()
        self.places = nn.Linear(query_width, length, bias=False)  # W

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        scores = self.places(query)  # [..., Q, length]
        return nn.functional.pad(scores, (0, key.shape[-2] - scores.shape[-1]), value=float("-inf"))
