"""A small network, frames for it, and questions about what a frame did, for the tests of the runtime."""

import contextlib

import torch
from torch import fx, nn

import deltafx

PAYLOADS = ("value", "difference")
TROUBLE = []  # what the island raises when it is next called, the last one first


class Small(nn.Module):
    """A residual block in the middle."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head(torch.relu(self.second(x) + x))


@fx.wrap
def island(x):
    """No operator is known for it."""
    if TROUBLE:
        raise TROUBLE.pop()
    return x * 2


class WithIsland(Small):
    def forward(self, x):
        return self.head(island(torch.relu(self.first(x))))


def small(kind=Small):
    torch.manual_seed(0)
    return kind().eval()


def frame(seed=0, streams=2, size=8):
    return torch.randn(streams, 3, size, size, generator=torch.Generator().manual_seed(seed))


def touched(x, stream=0, amount=1.0):
    """The next frame: one pixel of one stream is different."""
    x = x.clone()
    x[stream, :, 2, 3] += amount
    return x


def dense(model, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs)


def input_rate(dm):
    """The share of the input's pixels that the last frame updated."""
    return next(node for node in deltafx.report(dm).nodes if node.operator == "dense_to_delta").update_rate


def was_full(dm):
    """Whether the last frame updated every pixel of every node."""
    rates = [node.update_rate for node in deltafx.report(dm).nodes if node.update_rate is not None]
    return bool(rates) and all(rate == 1 for rate in rates)


@contextlib.contextmanager
def untouched(dm, model, x):
    """`x` was the last frame: whatever happens inside, the next one is right, and not computed in full for it."""
    yield
    x = touched(x)
    torch.testing.assert_close(dm(x), dense(model, x))
    assert input_rate(dm) == 1 / x[:, 0].numel()
