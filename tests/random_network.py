"""Random networks of supported operators, for property tests.

A network is a program: each step takes tensors that earlier steps made and adds one. Steps are drawn so that shapes
fit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

ACTIVATIONS = (nn.ReLU(inplace=True), nn.SiLU(), nn.Hardswish(), nn.Sigmoid(), nn.LeakyReLU(0.1))


class Gate(nn.Module):
    """A squeeze-excite gate."""

    def __init__(self, channels):
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.excite = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.excite(self.squeeze(x)))


class ChannelsLast(nn.Module):
    """LayerNorm and Linear on the last dimension, as in ConvNeXt."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, x):
        return self.linear(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Tokens(nn.Module):
    """Softmax over tokens: one changed pixel changes everything."""

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return (tokens * tokens.softmax(1)).transpose(1, 2).reshape(x.shape)


class Shuffle(nn.Module):
    def __init__(self, groups):
        super().__init__()
        self.groups = groups

    def forward(self, x):
        n, c, h, w = x.size()
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class Range(nn.Module):
    """No operator is known for it: an island with two outputs."""

    def forward(self, x):
        low, _ = torch.aminmax(x, dim=1, keepdim=True)
        return x - low


class Resize(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.mode = mode

    def forward(self, x):
        return F.interpolate(x, size=(x.shape[2] + 3, x.shape[3] * 2), mode=self.mode)


class Cut(nn.Module):
    def forward(self, x):
        return x[:, :, 1:, :-1]


class Half(nn.Module):
    def forward(self, x):
        first, second = x.chunk(2, dim=1)
        return second - first


class Network(nn.Module):
    """Runs a program of (kind, module or None, sources); returns the tensors named in `outputs`."""

    def __init__(self, program, outputs, inputs=1):
        super().__init__()
        self.modules_of = nn.ModuleList([step[1] if step[1] is not None else nn.Identity() for step in program])
        self.program = [(kind, sources) for kind, _, sources in program]
        self.outputs = outputs
        self.inputs = inputs

    def forward(self, x, y=None):
        made = [x] if self.inputs == 1 else [x, y]
        for module, (kind, sources) in zip(self.modules_of, self.program, strict=True):
            operands = [made[s] for s in sources]
            if kind == "add":
                made.append(operands[0] + operands[1])
            elif kind == "mul":
                made.append(torch.tanh(operands[0]) * operands[1])
            elif kind == "cat":
                made.append(torch.cat(operands, 1))
            else:
                made.append(module(operands[0]))
        if len(self.outputs) == 1:
            return made[self.outputs[0]]
        return {f"out{k}": made[index] for k, index in enumerate(self.outputs)}


def unary(draw, shape):
    """A module for a tensor of this shape, and the shape it gives."""
    c, h, w = shape
    kind = draw(st.sampled_from(
        ["conv", "conv", "conv", "depthwise", "activation", "gate", "norm", "max_pool", "avg_pool", "resize", "pad",
         "cut", "half", "channels_last", "tokens", "shuffle", "island", "transposed", "pixel_shuffle"]
    ))  # fmt: skip
    if kind in ("conv", "depthwise"):
        k = draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 5)]))
        stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        pad = tuple(d * (s - 1) // 2 for s, d in zip(k, (dilation,) * 2, strict=True))
        mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "circular"]))
        if mode != "zeros" and (pad[0] >= h or pad[1] >= w):
            mode = "zeros"
        out = c if kind == "depthwise" else draw(st.sampled_from([4, 6, 7]))
        groups = c if kind == "depthwise" else 1
        module = nn.Conv2d(c, out, k, stride, pad, dilation, groups, bias=draw(st.booleans()), padding_mode=mode)
        return module, (out, (h - 1) // stride + 1, (w - 1) // stride + 1)
    if kind == "transposed":
        return nn.ConvTranspose2d(c, 4, 3, stride=2, padding=1, output_padding=1), (4, 2 * h, 2 * w)
    if kind == "pixel_shuffle" and c % 4 == 0:
        return nn.PixelShuffle(2), (c // 4, 2 * h, 2 * w)
    if kind == "max_pool" and min(h, w) > 2:
        return nn.MaxPool2d(3, 2, 1, ceil_mode=draw(st.booleans())), None
    if kind == "avg_pool" and min(h, w) > 2:
        return nn.AvgPool2d(2, ceil_mode=draw(st.booleans())), None
    if kind == "resize":
        return Resize(draw(st.sampled_from(["nearest", "bilinear"]))), (c, h + 3, 2 * w)
    if kind == "pad":
        return nn.ReplicationPad2d((1, 0, 2, 1)), (c, h + 3, w + 1)
    if kind == "cut" and min(h, w) > 2:
        return Cut(), (c, h - 1, w - 1)
    if kind == "half" and c % 2 == 0:
        return Half(), (c // 2, h, w)
    if kind == "shuffle" and c % 2 == 0:
        return Shuffle(2), shape
    same = {
        "gate": lambda: Gate(c), "norm": lambda: nn.BatchNorm2d(c), "channels_last": lambda: ChannelsLast(c),
        "tokens": Tokens, "island": Range,
    }  # fmt: skip
    if kind in same:
        return same[kind](), shape
    return draw(st.sampled_from(ACTIVATIONS)), shape


@st.composite
def networks(draw, max_steps=9):
    """A network, with its number of inputs and their shape `[C, H, W]`."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    inputs = draw(st.integers(1, 2))
    shape = (3, draw(st.integers(5, 14)), draw(st.integers(5, 14)))
    shapes = [shape] * inputs
    program: list = []
    for _ in range(draw(st.integers(1, max_steps))):
        pairs = [(a, b) for a in range(len(shapes)) for b in range(len(shapes)) if shapes[a] == shapes[b]]
        joins = [(a, b) for a in range(len(shapes)) for b in range(len(shapes)) if shapes[a][1:] == shapes[b][1:]]
        kind = draw(st.sampled_from(["unary", "unary", "unary", "add", "mul", "cat", "again"]))
        if kind in ("add", "mul"):
            a, b = draw(st.sampled_from(pairs))
            program.append((kind, None, (a, b)))
            shapes.append(shapes[a])
        elif kind == "cat":
            a, b = draw(st.sampled_from(joins))
            program.append((kind, None, (a, b)))
            shapes.append((shapes[a][0] + shapes[b][0], *shapes[a][1:]))
        else:
            source = draw(st.integers(max(0, len(shapes) - 3), len(shapes) - 1))
            earlier = [m for k, m, s in program if k == "unary" and shapes[s[0]] == shapes[source]]
            if kind == "again" and earlier:  # a module called twice
                module, result = draw(st.sampled_from(earlier)), None
            else:
                module, result = unary(draw, shapes[source])
            if result is None:
                with torch.no_grad():
                    result = tuple(module.eval()(torch.zeros(1, *shapes[source])).shape[1:])
            program.append(("unary", module, (source,)))
            shapes.append(result)
    count = draw(st.integers(1, 3))
    outputs = [
        len(shapes) - 1,
        *draw(st.lists(st.integers(0, len(shapes) - 1), min_size=count - 1, max_size=count - 1)),
    ]
    return Network(program, outputs, inputs).eval(), inputs, shape
