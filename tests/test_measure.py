"""What is counted and compared."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deltafx.measure import flop_counter


@pytest.mark.parametrize("tokens", [3, 64])
def test_attention_is_counted(tokens: int) -> None:
    query, key = torch.randn(2, 4, tokens, 16), torch.randn(2, 4, 5, 16)
    with torch.inference_mode(), flop_counter() as flops:
        F.scaled_dot_product_attention(query, key, key)
    assert flops.get_total_flops() == 2 * 2 * (2 * 4 * tokens * 5 * 16)
