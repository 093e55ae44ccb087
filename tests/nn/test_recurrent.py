import torch
from torch import nn

from vertebra.nn.recurrent import Bidirectional


def test_both_directions_are_torchs():
    torch.manual_seed(0)
    ours, theirs = Bidirectional(3, 4), nn.GRU(3, 4, batch_first=True, bidirectional=True)
    weights = ours.forward_cell.state_dict() | {f"{k}_reverse": v for k, v in ours.backward_cell.state_dict().items()}
    theirs.load_state_dict(weights)
    x, lengths = torch.randn(2, 3, 5, 3), torch.tensor([5, 2, 1, 4, 5, 3])
    torch.testing.assert_close(ours(x), theirs(x.flatten(0, 1))[0].view(2, 3, 5, 8))
    packed = nn.utils.rnn.pack_padded_sequence(x.flatten(0, 1), lengths, batch_first=True, enforce_sorted=False)
    expected = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)[0]
    mask = (torch.arange(5) < lengths[:, None]).view(2, 3, 5)
    torch.testing.assert_close(ours(x, mask), expected.view(2, 3, 5, 8))
    assert not ours(x, torch.zeros_like(mask)).any()
