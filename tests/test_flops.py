"""Attention costs the same however it is computed: with gradients PyTorch spells it out and counts it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import deltafx
from deltafx.dense_macs import DenseMacs
from deltafx.flops import flop_counter


def count(counter, function, *args, **kwargs):
    with counter, torch.no_grad():
        function(*args, **kwargs)
    return counter.get_total_flops()


@pytest.mark.parametrize("tokens", [(5, 5), (5, 9)])
def test_scaled_dot_product_attention(tokens):
    query, (key, value) = torch.randn(2, 3, tokens[0], 8), torch.randn(2, 2, 3, tokens[1], 8)
    want = 2 * (2 * 2 * 3 * tokens[0] * tokens[1] * 8)
    assert count(flop_counter(), F.scaled_dot_product_attention, query, key, value) == want


def test_multi_head_attention():
    attention, x = nn.MultiheadAttention(16, 2, batch_first=True).eval(), torch.randn(2, 10, 16)
    with FlopCounterMode(display=False) as spelled_out:
        attention(x, x, x)
    assert count(flop_counter(), attention, x, x, x) == spelled_out.get_total_flops()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


def test_dense_model_counts_attention():
    macs = DenseMacs.of(Net().eval(), (torch.randn(1, 10, 16),), {})
    assert (macs.total, macs.own) == (10 * 16 * 16 * 4 + 2 * 10 * 10 * 16, {"attention": macs.total})


def test_report_counts_attention():
    dm = deltafx.convert(Net().eval())
    with torch.no_grad():
        dm(torch.randn(1, 10, 16))
    totals = deltafx.report(dm).totals
    assert totals["macs_dense"] == 10 * 16 * 16 * 4 + 2 * 10 * 10 * 16
    if totals["dense_nodes"]:
        assert totals["macs_delta_form"] < totals["macs_dense"]
