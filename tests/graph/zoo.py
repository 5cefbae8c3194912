"""Small networks, one idea each, with the channel groups that they have by hand.

`groups` are all groups with their unit counts; `slots` are exact indices of some units; `fixed` are slots that must
not shrink at all, with a part of the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

Built = tuple[nn.Module, tuple[Tensor, ...]]


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], Built]
    groups: dict[str, int]
    slots: dict[tuple[str, str, int, int], list[int]]  # (group, tensor, dim, unit) -> indices
    fixed: dict[tuple[str, int], str]
    limit: float
    randomised: bool


ZOO: dict[str, Case] = {}


class Net(nn.Module):
    """Parts by name and a forward function over them."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.run = run

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def add(
    name: str,
    run: Callable[..., Any],
    groups: dict[str, int],
    slots: dict[tuple[str, str, int, int], list[int]] | None = None,
    fixed: dict[tuple[str, int], str] | None = None,
    inputs: Callable[[], tuple[Tensor, ...]] | None = None,
    limit: float = 1e-5,
    randomised: bool = True,
    after: Callable[[nn.Module], nn.Module] = lambda model: model,
    **parts: Callable[[], Any],
) -> None:
    def build() -> Built:
        model = after(Net(run, **{key: make() for key, make in parts.items()}))
        return model, inputs() if inputs else image()

    ZOO[name] = Case(name, build, groups, slots or {}, fixed or {}, limit, randomised)


def image(*shape: int) -> tuple[Tensor]:
    return (torch.randn(shape or (2, 3, 8, 8), generator=torch.Generator().manual_seed(1)),)


def tokens() -> tuple[Tensor]:
    return image(2, 5, 6)


def conv(cin: int, cout: int, k: int = 3, **keywords: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(cin, cout, k, **{"padding": k // 2, **keywords})


def lin(cin: int, cout: int, bias: bool = True) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(cin, cout, bias)


def par(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.randn(shape))


def pool(x: Tensor) -> Tensor:
    return x.mean((2, 3))


# ------------------------------------------------------------------------------------------------- residual and concat
add(
    "residual",
    lambda m, x: m.fc(pool((s := F.relu(m.n(m.a(x)))) + m.c(F.relu(m.b(s))))),
    {"a": 8, "b": 6},
    {("a", "a.weight", 0, 2): [2], ("a", "n.running_var", 0, 2): [2], ("a", "c.weight", 0, 2): [2],
     ("a", "b.weight", 1, 2): [2], ("a", "fc.weight", 1, 2): [2], ("b", "c.weight", 1, 5): [5]},
    {("a.weight", 1): "an input of the network", ("a.weight", 2): "kernel extent",
    ("fc.weight", 0): "output of the network"},
    a=conv(3, 8), n=lambda: nn.BatchNorm2d(8), b=conv(8, 6), c=conv(6, 8), fc=lin(8, 5),
)  # fmt: skip
add(
    "padded_shortcut",
    lambda m, x: m.fc(pool(F.relu(m.c(F.relu(m.b(s := m.a(x))))[:, :, ::2, ::2] + F.pad(s[:, :, ::2, ::2],
    (0, 0, 0, 0, 2, 2))))),
    {"a": 4, "b": 6, "c": 4},
    {("a", "c.weight", 0, 0): [2], ("a", "fc.weight", 1, 3): [5], ("c", "c.weight", 0, 1): [1],
    ("c", "fc.weight", 1, 2): [6]},
    a=conv(3, 4), b=conv(4, 6), c=conv(6, 8), fc=lin(8, 5),
)  # fmt: skip
add(
    "dense_block",
    lambda m, x: m.fc(pool(torch.cat([u := m.a(x), v := F.relu(m.b(u)), m.c(torch.cat([u, v], 1))], 1))),
    {"a": 4, "b": 6, "c": 5},
    {("a", "c.weight", 1, 3): [3], ("b", "c.weight", 1, 0): [4], ("c", "fc.weight", 1, 0): [10],
    ("b", "fc.weight", 1, 5): [9]},
    a=conv(3, 4), b=conv(4, 6), c=conv(10, 5), fc=lin(15, 5),
)  # fmt: skip
add(
    "tied_weights",
    lambda m, x: m.fc(pool(m.s(F.relu(m.s(F.relu(m.a(x))))))),
    {"a": 8},
    {("a", "s.weight", 0, 3): [3], ("a", "s.weight", 1, 3): [3]},
    a=conv(3, 8), s=conv(8, 8), fc=lin(8, 5),
)  # fmt: skip

# --------------------------------------------------------------------------------------------------------------- gates
add(
    "chunk_gate",
    lambda m, x: m.fc(pool((p := m.a(x).chunk(2, 1))[0] * torch.sigmoid(p[1]))),
    {"a": 6}, {("a", "a.weight", 0, 1): [1, 7], ("a", "fc.weight", 1, 1): [1]}, a=conv(3, 12), fc=lin(6, 5),
)  # fmt: skip
add(
    "split_sizes",
    lambda m, x: m.fc(pool(m.b((p := m.a(x).split([4, 6], 1))[0]) + m.c(p[1]))),
    {"a": 4, "a#2": 6, "b": 5},
    {("a", "b.weight", 1, 3): [3], ("a#2", "a.weight", 0, 0): [4], ("a#2", "c.weight", 1, 0): [0]},
    a=conv(3, 10), b=conv(4, 5), c=conv(6, 5), fc=lin(5, 5),
)  # fmt: skip
add("glu", lambda m, x: m.fc(pool(F.glu(m.a(x), 1))), {"a": 6}, {("a", "a.bias", 0, 2): [2, 8]}, a=conv(3, 12),
    fc=lin(6, 5))  # fmt: skip
add(
    "swiglu",
    lambda m, x: m.o(F.silu(m.g(x)) * m.u(x)),
    {"g": 7}, {("g", "u.weight", 0, 4): [4], ("g", "o.weight", 1, 4): [4]},
    inputs=tokens, g=lin(6, 7), u=lin(6, 7), o=lin(7, 4),
)  # fmt: skip
add(
    "squeeze_excite",
    lambda m, x: m.fc(pool((y := F.silu(m.a(x))) * torch.sigmoid(m.s2(F.relu(m.s1(pool(y)))))[:, :, None, None])),
    {"a": 8, "s1": 4},
    {("a", "s1.weight", 1, 5): [5], ("a", "s2.weight", 0, 5): [5], ("s1", "s2.weight", 1, 3): [3]},
    a=conv(3, 8), s1=lin(8, 4), s2=lin(4, 8), fc=lin(8, 5),
)  # fmt: skip
add(
    "maximum_of_halves",
    lambda m, x: m.fc(pool(torch.maximum(*m.a(x).chunk(2, 1)))),
    {"a": 4}, {("a", "a.weight", 0, 1): [1, 5]}, a=conv(3, 8), fc=lin(4, 5),
)  # fmt: skip

# -------------------------------------------------------------------------------------------------------- convolutions
add("depthwise", lambda m, x: m.fc(pool(m.p(F.relu6(m.d(F.relu6(m.a(x))))))), {"a": 8, "p": 6},
    {("a", "d.weight", 0, 7): [7], ("a", "p.weight", 1, 7): [7]},
    a=conv(3, 8), d=conv(8, 8, groups=8), p=conv(8, 6, 1), fc=lin(6, 5))  # fmt: skip
add("depthwise_multiplier", lambda m, x: m.fc(pool(F.relu(m.d(m.a(x))))), {"a": 8},
    {("a", "d.weight", 0, 3): [6, 7], ("a", "fc.weight", 1, 3): [6, 7], ("a", "a.weight", 0, 3): [3]},
    a=conv(3, 8), d=conv(8, 16, groups=8), fc=lin(16, 5))  # fmt: skip
add("grouped_whole_groups", lambda m, x: m.fc(pool(F.relu(m.g(F.relu(m.a(x)))))), {"a": 4},
    {("a", "a.weight", 0, 1): [3, 4, 5], ("a", "g.weight", 0, 1): [2, 3], ("a", "fc.weight", 1, 1): [2, 3]},
    {("g.weight", 1): "shared by whole groups"},
    a=conv(3, 12), g=conv(12, 8, groups=4), fc=lin(8, 5))  # fmt: skip
add("grouped_same_places", lambda m, x: m.fc(pool(F.relu(m.g(F.relu(m.a(x)))))), {"a": 6, "g": 8},
    {("a", "a.weight", 0, 1): [1, 7], ("a", "g.weight", 1, 1): [1], ("g", "g.weight", 0, 2): [2, 10]},
    a=conv(3, 12), g=conv(12, 16, groups=2), fc=lin(16, 5))  # fmt: skip
add("grouped_on_the_image", lambda m, x: m.fc(pool(m.b(m.g(x)))), {"b": 4}, None, {("g.weight", 0): "cannot shrink"},
    g=conv(3, 6, groups=3), b=conv(6, 4), fc=lin(4, 5))  # fmt: skip
add("transposed", lambda m, x: m.fc(pool(F.relu(m.t(F.relu(m.a(x)))))), {"a": 8, "t": 6},
    {("a", "t.weight", 0, 3): [3], ("t", "t.weight", 1, 3): [3], ("t", "t.bias", 0, 3): [3]},
    a=conv(3, 8), t=lambda: nn.ConvTranspose2d(8, 6, 2, 2), fc=lin(6, 5))  # fmt: skip
add("transposed_whole_groups", lambda m, x: m.fc(pool(m.t(m.a(x)))), {"a": 4},
    {("a", "t.weight", 0, 1): [2, 3], ("a", "t.bias", 0, 1): [3, 4, 5]},
    a=conv(3, 8), t=lambda: nn.ConvTranspose2d(8, 12, 2, 2, groups=4), fc=lin(12, 5))  # fmt: skip
add("transposed_same_places", lambda m, x: m.fc(pool(m.t(m.a(x)))), {"a": 4, "t": 6},
    {("a", "t.weight", 0, 1): [1, 5], ("t", "t.weight", 1, 2): [2], ("t", "t.bias", 0, 2): [2, 8]},
    a=conv(3, 8), t=lambda: nn.ConvTranspose2d(8, 12, 2, 2, groups=2), fc=lin(12, 5))  # fmt: skip
add("even_kernels", lambda m, x: m.fc(pool(m.b(F.relu(m.a(x))))), {"a": 8, "b": 6},
    a=conv(3, 8, 2, padding="same"), b=conv(8, 6, 4, padding=1, stride=2), fc=lin(6, 5))  # fmt: skip
add("conv1d_3d", lambda m, x: m.fc(m.c(m.b(m.a(x.flatten(2)).unflatten(2, (4, 4, 4)))).mean((2, 3, 4))),
    {"a": 6, "b": 5, "c": 4},
    a=lambda: nn.Conv1d(3, 6, 3, padding=1), b=lambda: nn.Conv3d(6, 5, 3), c=lambda: nn.ConvTranspose3d(5, 4, 2),
    fc=lin(4, 5))  # fmt: skip


class ScaledConv(nn.Conv2d):
    """A subclass that scales its weight in forward."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * 0.7 + self.weight**2, self.bias, padding=1)


def picked(m: Any, x: Tensor, spread: Callable[[Tensor], Tensor]) -> Tensor:
    """The four tokens with the highest scores, ``[batch, 4, channels]``."""
    tokens = m.a(x).flatten(2).transpose(1, 2)
    return tokens.gather(1, spread(m.s(x).flatten(1).argsort(1)[:, :4, None]))


add("conv_subclass", lambda m, x: m.fc(pool(m.b(F.relu(m.a(x))))), {"a": 8, "b": 6}, {("a", "b.weight", 1, 4): [4]},
    a=lambda: ScaledConv(3, 8, 3), b=lambda: ScaledConv(8, 6, 3), fc=lin(6, 5))  # fmt: skip
add("parametrized_weight_norm", lambda m, x: m.fc(pool(m.b(F.relu(m.a(x))))), {"a": 8, "b": 6},
    {("a", "a.weight", 0, 4): [4]},
    a=lambda: parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
    b=lambda: parametrizations.weight_norm(nn.Conv2d(8, 6, 3)),
    fc=lin(6, 5))  # fmt: skip
add("weight_standardised", lambda m,
    x: m.fc(pool(m.b(F.conv2d(x, (w := m.a.weight) - w.mean((1, 2, 3), keepdim=True), m.a.bias)))),
    {"a": 8, "b": 6}, a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("low_rank", lambda m, x: m.fc(m.v(m.u(F.relu(m.a(x))))), {"a": 8, "u": 2, "v": 8}, {("u", "v.weight", 1, 1): [1]},
    inputs=tokens, a=lin(6, 8), u=lin(8, 2, False), v=lin(2, 8), fc=lin(8, 5))  # fmt: skip
add("low_rank_added", lambda m, x: m.fc(F.linear(F.relu(m.a(x)), m.w + m.up @ m.down)), {"a": 8, "up": 7},
    {("a", "down", 1, 3): [3], ("a", "w", 1, 3): [3], ("up", "w", 0, 3): [3]}, {("down", 0): "not written by a weight"},
    inputs=tokens, a=lin(6, 8), up=par(7, 2), down=par(2, 8), w=par(7, 8), fc=lin(7, 5))  # fmt: skip
add("all_frozen", lambda m, x: m.fc(pool(m.b(F.relu(m.a(x))))), {"a": 8, "b": 6},
    after=lambda model: model.requires_grad_(False), a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip

# ------------------------------------------------------------------------------------------------------------- layout
add("shuffle_by_view", lambda m, x: m.fc(pool(m.b(m.a(x).view(-1, 3, 4, 8, 8).transpose(1, 2).reshape(-1, 12, 8, 8)))),
    {"a": 4, "b": 6}, {("a", "a.weight", 0, 1): [1, 5, 9], ("a", "b.weight", 1, 1): [3, 4, 5]},
    a=conv(3, 12), b=conv(12, 6, 1), fc=lin(6, 5))  # fmt: skip
add("shuffle", lambda m, x: m.fc(pool(m.b(F.channel_shuffle(m.a(x), 3)))),
    {"a": 4, "b": 6}, {("a", "a.weight", 0, 1): [1, 5, 9], ("a", "b.weight", 1, 1): [3, 4, 5]},
    a=conv(3, 12), b=conv(12, 6, 1), fc=lin(6, 5))  # fmt: skip
add("pixel_shuffle", lambda m, x: m.fc(pool(m.b(F.pixel_shuffle(m.a(x), 2)))), {"a": 4, "b": 6},
    {("a", "a.weight", 0, 1): [4, 5, 6, 7], ("a", "b.weight", 1, 1): [1]}, a=conv(3, 16), b=conv(4, 6),
    fc=lin(6, 5))  # fmt: skip
add("pixel_unshuffle", lambda m, x: m.fc(pool(m.b(F.pixel_unshuffle(m.a(x), 2)))), {"a": 4, "b": 6},
    {("a", "b.weight", 1, 1): [4, 5, 6, 7], ("a", "a.weight", 0, 1): [1]}, a=conv(3, 4), b=conv(16, 6),
    fc=lin(6, 5))  # fmt: skip
add("roll", lambda m, x: m.fc(pool(m.b(F.relu(m.a(x)).roll((3, 1), (1, 2))))), {"a": 8, "b": 6},
    {("a", "b.weight", 1, 0): [3], ("a", "b.weight", 1, 6): [1]}, a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("roll_back", lambda m, x: m.fc(pool(m.b(m.a(x).roll(-3, 1)))), {"a": 8, "b": 6}, {("a", "b.weight", 1, 0): [5]},
    a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("roll_onto_itself", lambda m, x: m.fc(pool((y := m.a(x)) + y.roll(4, 1))), {"a": 4},
    {("a", "a.weight", 0, 1): [1, 5]},
    a=conv(3, 8), fc=lin(8, 5))  # fmt: skip
add("roll_of_a_vector", lambda m, x: m.fc(pool(m.a(x)) * m.s.roll(3)), {"a": 8},
    {("a", "s", 0, 0): [5], ("a", "s", 0, 4): [1]},
    a=conv(3, 8), s=par(8), fc=lin(8, 5))  # fmt: skip
add("flip", lambda m, x: m.fc(pool(m.b(m.a(x).flip(1)))), {"a": 8, "b": 6}, {("a", "b.weight", 1, 0): [7]},
    a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("index_permutation", lambda m, x: m.fc(pool(m.b(m.a(x)[:, [3, 1, 0, 2, 7, 6, 5, 4]]))), {"a": 8, "b": 6},
    {("a", "b.weight", 1, 0): [2], ("a", "b.weight", 1, 3): [0], ("a", "b.weight", 1, 7): [4]},
    a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("index_buffer_repeats", lambda m, x: m.fc(pool(m.b(m.a(x).index_select(1, m.i)))), {"a": 2, "a#2": 1, "b": 6},
    {("a", "b.weight", 1, 0): [1, 2], ("a", "b.weight", 1, 1): [0, 3]},
    i=lambda: torch.tensor([2, 0, 0, 2]), a=conv(3, 3), b=conv(4, 6), fc=lin(6, 5))  # fmt: skip
add("index_of_two_dimensions", lambda m, x: m.fc(pool(m.a(x)[:, m.i].sum(2))), {}, None, {("a.weight", 0): "index"},
    i=lambda: torch.tensor([[0, 1], [2, 3], [4, 5]]), a=conv(3, 8), fc=lin(3, 5))  # fmt: skip
add("strided_slices", lambda m, x: m.fc(pool(m.b((y := m.a(x))[:, ::2]) + m.c(y[:, 1::2]))), {"a": 4, "a#2": 4, "b": 6},
    {("a", "a.weight", 0, 1): [2], ("a#2", "a.weight", 0, 1): [3], ("a#2", "c.weight", 1, 1): [1]},
    a=conv(3, 8), b=conv(4, 6), c=conv(4, 6), fc=lin(6, 5))  # fmt: skip
add("strided_pairs", lambda m, x: m.fc(pool(torch.maximum((y := m.a(x))[:, ::2], y[:, 1::2]))), {"a": 4},
    {("a", "a.weight", 0, 1): [2, 3]}, a=conv(3, 8), fc=lin(4, 5))  # fmt: skip
add("overlapping_slices", lambda m, x: m.fc(pool(m.b((y := m.a(x))[:, :5]) + m.b(y[:, 3:]))), {"a": 3, "b": 6},
    {("a", "a.weight", 0, 0): [0, 3, 6], ("a", "a.weight", 0, 1): [1, 4, 7], ("a", "b.weight", 1, 2): [2]},
    a=conv(3, 8), b=conv(5, 6), fc=lin(6, 5))  # fmt: skip
add("single_index_before_chunk", lambda m,
    x: m.fc(pool((p := (y := m.a(x)).chunk(2, 1))[0] * p[1] + y[:, 5].unsqueeze(1))),
    {"a": 3}, {("a", "a.weight", 0, 0): [0, 4]}, a=conv(3, 8), fc=lin(4, 5))  # fmt: skip
add("narrow", lambda m, x: m.fc(pool(m.b((y := m.a(x)).narrow(1, 2, 4)) + m.b(y.narrow(1, -4, 4)))),
    {"a": 2, "a#2": 2, "b": 6},
    {("a#2", "a.weight", 0, 0): [2, 4, 6]}, a=conv(3, 8), b=conv(4, 6), fc=lin(6, 5))  # fmt: skip
add("stack_and_sum", lambda m, x: m.fc(pool(torch.stack([m.a(x), m.b(x)], 1).sum(1))), {"a": 8},
    {("a", "b.weight", 0, 3): [3]},
    a=conv(3, 8), b=conv(3, 8), fc=lin(8, 5))  # fmt: skip
add("repeat", lambda m, x: m.fc(pool(m.a(x).repeat(1, 2, 1, 1))), {"a": 8}, {("a", "fc.weight", 1, 3): [3, 11]},
    a=conv(3, 8), fc=lin(16, 5))  # fmt: skip
add("repeat_of_a_scale", lambda m, x: m.fc(pool(m.a(x) * m.s.repeat(1, 8, 1, 1))), {"a": 8},
    {("a", "a.weight", 0, 3): [3]},
    a=conv(3, 8), s=par(1, 1, 1, 1), fc=lin(8, 5))  # fmt: skip
add(
    "gather_expanded",
    lambda m, x: m.fc(picked(m, x, lambda i: i.expand(-1, -1, 8)).mean(1)),
    {"a": 8},
    {("a", "a.weight", 0, 3): [3], ("a", "fc.weight", 1, 3): [3]},
    a=conv(3, 8),
    s=conv(3, 1),
    fc=lin(8, 5),
)
add(
    "gather_repeated",
    lambda m, x: m.fc(picked(m, x, lambda i: i.repeat(1, 1, 8)).mean(1)),
    {"a": 8},
    {("a", "fc.weight", 1, 3): [3]},
    a=conv(3, 8),
    s=conv(3, 1),
    fc=lin(8, 5),
)
add("gather_of_some", lambda m, x: m.fc(picked(m, x, lambda i: i.expand(-1, -1, 6)).mean(1)), {}, None,
    {("a.weight", 0): "indexed by data"}, a=conv(3, 8), s=conv(3, 1), fc=lin(6, 5))  # fmt: skip
add("repeat_interleave", lambda m, x: m.fc(pool(m.a(x).repeat_interleave(2, 1))), {"a": 8},
    {("a", "fc.weight", 1, 3): [6, 7]},
    a=conv(3, 8), fc=lin(16, 5))  # fmt: skip
add("interpolate", lambda m,
    x: m.fc(pool(m.b(F.interpolate(F.interpolate(m.a(x), scale_factor=2), (5, 5), mode="bilinear")))),
    {"a": 8, "b": 6}, a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("pooling", lambda m,
    x: m.fc(torch.flatten(F.adaptive_max_pool2d(F.avg_pool2d(F.max_pool2d(m.a(x), 3, 1, 1), 2), 1), 1)),
    {"a": 8}, a=conv(3, 8), fc=lin(8, 5))  # fmt: skip
add("flatten_linear", lambda m, x: m.fc(F.max_pool2d(F.relu(m.a(x)), 2).flatten(1)), {"a": 8},
    {("a", "fc.weight", 1, 1): list(range(16, 32))}, a=conv(3, 8), fc=lin(128, 5))  # fmt: skip
add("squeeze_everything", lambda m, x: m.fc(m.a(x).mean((2, 3), keepdim=True).squeeze().squeeze(1)), {"a": 8},
    a=conv(3, 8), fc=lin(8, 5))  # fmt: skip
add("crop_and_pad_channels", lambda m, x: m.fc(pool(m.b(F.pad(m.a(x), (1, 1, 0, 0, -2, 1))))),
    {"a": 2, "a#2": 6, "b": 5},
    {("a", "a.weight", 0, 1): [1], ("a#2", "a.weight", 0, 0): [2], ("a#2", "b.weight", 1, 0): [0]},
    a=conv(3, 8), b=conv(7, 5), fc=lin(5, 5))  # fmt: skip
add("channels_in_the_batch", lambda m,
    x: m.fc(pool(F.avg_pool2d(m.a(x).reshape(-1, 1, 8, 8), 2).reshape(x.shape[0], 8, 4, 4))),
    {"a": 8}, a=conv(3, 8), fc=lin(8, 5))  # fmt: skip
add("sliced_in_the_batch", lambda m,
    x: m.fc(pool(m.a(x).reshape(-1, 1, 8, 8)[: 4 * x.shape[0]].reshape(x.shape[0], 4, 8, 8))), {}, None,
    {("a.weight", 0): "batch"}, a=conv(3, 8), fc=lin(4, 5))  # fmt: skip
add("view_of_batch_and_rest", lambda m,
    x: m.fc(pool(m.a(x).reshape(x.shape[0] * 8, -1, 4).reshape(x.shape[0], 8, 8, 8))), {"a": 8},
    a=conv(3, 8), fc=lin(8, 5))  # fmt: skip
add("padding_modes", lambda m, x: m.fc(pool(m.b(F.pad(torch.sigmoid(m.a(x)), (1, 1, 1, 1), mode="reflect")))),
    {"a": 8, "b": 6},
    a=conv(3, 8), b=conv(8, 6, padding_mode="circular"), fc=lin(6, 5))  # fmt: skip

# -------------------------------------------------------------------------------------------------------------- norms
add("group_norm_one_group", lambda m, x: m.fc(pool(m.b(m.n(m.a(x))))), {"b": 6}, None,
    {("a.weight", 0): "group norm with one group"},
    a=conv(3, 8), n=lambda: nn.GroupNorm(1, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("group_norm", lambda m, x: m.fc(pool(m.b(m.n(m.a(x))))), {"a": 4, "b": 6}, {("a", "n.weight", 0, 1): [3, 4, 5]},
    a=conv(3, 12), n=lambda: nn.GroupNorm(4, 12), b=conv(12, 6), fc=lin(6, 5))  # fmt: skip
add("instance_norm", lambda m, x: m.fc(pool(F.relu(m.n(m.a(x))))), {"a": 8}, {("a", "n.weight", 0, 1): [1]},
    a=conv(3, 8), n=lambda: nn.InstanceNorm2d(8, affine=True), fc=lin(8, 5))  # fmt: skip
add("instance_norm_over_channels", lambda m, x: m.fc(m.n(m.a(x)).mean(1)), {}, None, {("a.weight", 0): "statistics"},
    inputs=tokens, a=lin(6, 8), n=lambda: nn.InstanceNorm1d(5, affine=True), fc=lin(8, 5))  # fmt: skip
add("batch_norm_plain", lambda m, x: m.fc(pool(F.relu(m.n(m.a(x))))), {"a": 8}, {("a", "n.running_mean", 0, 1): [1]},
    a=conv(3, 8), n=lambda: nn.BatchNorm2d(8, affine=False), fc=lin(8, 5))  # fmt: skip
add("layer_norm", lambda m, x: m.fc((y := m.a(x)) + m.v(F.gelu(m.u(m.n(y))))), {"u": 9}, {("u", "v.weight", 1, 4): [4]},
    {("a.weight", 0): "layer_norm statistics over the channels", ("n.weight", 0): "layer_norm",
    ("v.weight", 0): "layer_norm"},
    inputs=tokens, a=lin(6, 8), n=lambda: nn.LayerNorm(8), u=lin(8, 9), v=lin(9, 8), fc=lin(8, 5))  # fmt: skip
add("rms_norm", lambda m, x: m.fc(m.n(m.b(F.relu(m.a(x))))), {"a": 7, "b": 8}, {("b", "n.weight", 0, 3): [3]},
    inputs=tokens, a=lin(6, 7), b=lin(7, 8), n=lambda: nn.RMSNorm(8, eps=0.1), fc=lin(8, 5))  # fmt: skip
add("rms_norm_plain", lambda m, x: m.fc(m.n(m.a(x))), {"a": 8},
    inputs=tokens, a=lin(6, 8), n=lambda: nn.RMSNorm(8, elementwise_affine=False), fc=lin(8, 5))  # fmt: skip
add("rms_norm_of_what_is_not_zero", lambda m, x: m.fc(m.n(F.sigmoid(m.a(x)))), {}, None, {("a.weight", 0): "rms_norm"},
    inputs=tokens, a=lin(6, 8), n=lambda: nn.RMSNorm(8), fc=lin(8, 5))  # fmt: skip
add("rms_norm_of_heads", lambda m, x: m.fc(joined(F.scaled_dot_product_attention(
    m.n(heads(m.q(x))), m.n(heads(m.k(x))), heads(m.v(x))))), {"q": 3}, None, {("n.weight", 0): "rms_norm"},
    inputs=tokens, q=lin(6, 12), k=lin(6, 12), v=lin(6, 12), n=lambda: nn.RMSNorm(SIZE), fc=lin(12, 5))  # fmt: skip
add("prelu", lambda m, x: m.fc(pool(m.q(m.b(m.p(m.a(x)))))), {"a": 8, "b": 6}, {("a", "p.weight", 0, 3): [3]},
    a=conv(3, 8), p=lambda: nn.PReLU(8), b=conv(8, 6), q=nn.PReLU, fc=lin(6, 5))  # fmt: skip
add("buffers_as_scales", lambda m, x: m.fc(pool(F.relu(m.a(x)) * m.scale[:, None, None] + m.shift)), {"a": 8},
    {("a", "scale", 0, 3): [3], ("a", "shift", 1, 3): [3]},
    a=conv(3, 8), scale=lambda: torch.rand(8), shift=lambda: torch.rand(1, 8, 1, 1), fc=lin(8, 5))  # fmt: skip
add("normalised_in_space", lambda m, x: m.fc(F.normalize(m.a(x).flatten(2), dim=2).amax(2)), {"a": 8}, a=conv(3, 8),
    fc=lin(8, 5))  # fmt: skip
add("standardised_in_space", lambda m, x: m.fc(((y := m.a(x)) / (y.std((2, 3), keepdim=True) + 0.1)).amax((2, 3))),
    {"a": 8},
    a=conv(3, 8), fc=lin(8, 5))  # fmt: skip
add("divided_by_its_deviation", lambda m, x: m.fc(((y := m.a(x)) / y.std((2, 3), keepdim=True)).amax((2, 3))), {}, None,
    {("a.weight", 0): "not finite"}, a=conv(3, 8), fc=lin(8, 5))  # fmt: skip

# ----------------------------------------------------------------------------------------------------------- attention
HEADS, SIZE = 3, 4


def heads(x: Tensor, count: int = HEADS) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def fused(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    q, k, v = m.qkv(h).reshape(x.shape[0], 5, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
    return m.fc(m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 5, 12)))


def explicit(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    q, k, v = heads(m.q(h)), heads(m.k(h)), heads(m.v(h))
    scores = (q @ k.transpose(-2, -1)) * SIZE**-0.5
    return m.fc(m.o(joined(scores.softmax(-1) @ v)))


def by_einsum(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    q, k, v = (part.unflatten(-1, (HEADS, SIZE)) for part in (m.q(h), m.k(h), m.v(h)))
    scores = torch.einsum("bnhd, bmhd -> bhnm", q, k).softmax(-1)
    return m.fc(m.o(torch.einsum("bhnm,bmhd->bnhd", scores, v).flatten(2)))


def grouped_query(m: Any, x: Tensor) -> Tensor:
    q, k, v = heads(m.q(x), 4), heads(m.k(x), 2), heads(m.v(x), 2)
    return m.fc(joined(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)))


def grouped_query_repeated(m: Any, x: Tensor) -> Tensor:
    q, k, v = heads(m.q(x), 4), heads(m.k(x), 2), heads(m.v(x), 2)
    k, v = k.repeat_interleave(2, 1), v[:, :, None].expand(-1, -1, 2, -1, -1).reshape(x.shape[0], 4, 5, 3)
    return m.fc(joined(F.scaled_dot_product_attention(q, k, v)))


def multi_query(m: Any, x: Tensor) -> Tensor:
    q, k, v = heads(m.q(x), 4), m.k(x).unsqueeze(1), m.v(x).unsqueeze(1)
    return m.fc(joined((q @ k.transpose(-2, -1)).softmax(-1) @ v))


def deformable(m: Any, x: Tensor) -> Tensor:
    values = m.v(x).reshape(x.shape[0] * HEADS, SIZE, 8, 8)
    places = m.g(x).unflatten(1, (HEADS, 2)).permute(0, 1, 3, 4, 2).flatten(0, 1)
    return m.fc(pool(F.grid_sample(values, places, align_corners=False).reshape(x.shape[0], -1, 8, 8)))


def linear_attention(m: Any, x: Tensor) -> Tensor:
    q, k, v = F.relu(heads(m.q(x))), F.relu(heads(m.k(x))), heads(m.v(x))
    return m.fc(joined((q @ (k.transpose(-2, -1) @ v)) / (q @ k.sum(2).unsqueeze(-1) + 1.0)))


QKV = {"a": lin(6, 12), "q": lin(12, 12), "k": lin(12, 12), "v": lin(12, 12), "o": lin(12, 12), "fc": lin(12, 5)}
ROWS = {
    ("q", "q.weight", 0, 1): [4, 5, 6, 7],
    ("q", "v.bias", 0, 2): [8, 9, 10, 11],
    ("q", "o.weight", 1, 1): [4, 5, 6, 7],
}
add("attention", lambda m,
    x: m.fc(m.o(joined(F.scaled_dot_product_attention(heads(m.q(h := m.a(x))), heads(m.k(h)), heads(m.v(h)))))),
    {"a": 12, "q": 3, "o": 12}, ROWS, inputs=tokens, **QKV)  # fmt: skip
add("attention_explicit", explicit, {"a": 12, "q": 3, "o": 12}, ROWS, inputs=tokens, **QKV)
add("attention_einsum", by_einsum, {"a": 12, "q": 3, "o": 12}, ROWS, inputs=tokens, **QKV)
add("attention_fused", fused, {"a": 12, "qkv": 3, "o": 12},
    {("qkv", "qkv.weight", 0, 1): [4, 5, 6, 7, 16, 17, 18, 19, 28, 29, 30, 31],
    ("qkv", "o.weight", 1, 1): [4, 5, 6, 7]},
    inputs=tokens, a=lin(6, 12), qkv=lin(12, 36), o=lin(12, 12), fc=lin(12, 5))  # fmt: skip
add("attention_module", lambda m, x: m.fc(m.t(h := m.a(x), h, h, need_weights=False)[0]),
    {"a": 12, "t": 3, "t.out_proj": 12},
    {("t", "t.in_proj_weight", 0, 0): [0, 1, 2, 3, 12, 13, 14, 15, 24, 25, 26, 27],
    ("t", "t.out_proj.weight", 1, 0): [0, 1, 2, 3]},
    inputs=tokens, a=lin(6, 12), t=lambda: nn.MultiheadAttention(12, 3, batch_first=True), fc=lin(12, 5))  # fmt: skip
add("attention_module_weights", lambda m, x: m.fc(m.t(h := m.a(x), h, h)[0]), {"a": 12, "t": 3, "t.out_proj": 12},
    inputs=tokens, a=lin(6, 12), t=lambda: nn.MultiheadAttention(12, 3, batch_first=True), fc=lin(12, 5))  # fmt: skip
add("attention_one_head", lambda m, x: m.fc(F.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x))), {"q": 4, "v": 7},
    {("q", "k.weight", 0, 3): [3], ("v", "fc.weight", 1, 6): [6]},
    inputs=tokens, q=lin(6, 4), k=lin(6, 4), v=lin(6, 7), fc=lin(7, 5))  # fmt: skip
add("attention_grouped_query", grouped_query, {"q": 2},
    {("q", "q.weight", 0, 1): [6, 7, 8, 9, 10, 11], ("q", "k.weight", 0, 1): [3, 4, 5],
    ("q", "fc.weight", 1, 0): [0, 1, 2, 3, 4, 5]},
    inputs=tokens, q=lin(6, 12), k=lin(6, 6), v=lin(6, 6), fc=lin(12, 5))  # fmt: skip
add("attention_grouped_query_repeated", grouped_query_repeated, {"q": 2},
    {("q", "q.weight", 0, 1): [6, 7, 8, 9, 10, 11]},
    inputs=tokens, q=lin(6, 12), k=lin(6, 6), v=lin(6, 6), fc=lin(12, 5))  # fmt: skip
add("attention_multi_query", multi_query, {"q": 4},
    {("q", "q.weight", 0, 1): [3, 4, 5], ("q", "fc.weight", 1, 1): [4, 5, 6, 7]},
    {("v.weight", 0): "merged with another dimension", ("k.weight", 0): "heads"},
    inputs=tokens, q=lin(6, 12), k=lin(6, 3), v=lin(6, 4), fc=lin(16, 5))  # fmt: skip
add("attention_deformable", deformable, {"v": 3},
    {("v", "v.weight", 0, 1): [4, 5, 6, 7], ("v", "g.weight", 0, 1): [2, 3], ("v", "fc.weight", 1, 1): [4, 5, 6, 7]},
    v=conv(3, 12), g=conv(3, 6), fc=lin(12, 5))  # fmt: skip
add("attention_linear", linear_attention, {"q": 3},
    inputs=tokens, q=lin(6, 12), k=lin(6, 12), v=lin(6, 12), fc=lin(12, 5))  # fmt: skip
add("attention_bias", lambda m,
    x: m.fc(joined(F.scaled_dot_product_attention(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)), m.mask))),
    {"q": 3}, {("q", "mask", 0, 1): [1]}, inputs=tokens, q=lin(6, 12), k=lin(6, 12), v=lin(6, 12), mask=par(3, 5, 5),
    fc=lin(12, 5))  # fmt: skip
add("causal_over_channels", lambda m,
    x: m.fc(F.scaled_dot_product_attention(m.q(x).transpose(1, 2), x.transpose(1, 2), m.k, is_causal=True)),
    {"k": 4}, None, {("q.weight", 0): "causal"}, inputs=tokens, q=lin(6, 7), k=par(2, 6, 4), fc=lin(4, 5))  # fmt: skip
add("class_token", lambda m,
    x: m.fc(F.relu(m.b(torch.cat([m.cls.expand(x.shape[0], -1, -1), m.a(x).flatten(2).transpose(1, 2)], 1) + m.pos)[:,
    0])),
    {"a": 8, "b": 6}, {("a", "cls", 2, 3): [3], ("a", "pos", 2, 3): [3], ("a", "b.weight", 1, 3): [3]},
    a=conv(3, 8, 4, stride=4, padding=0), cls=par(1, 1, 8), pos=par(1, 5, 8), b=lin(8, 6), fc=lin(6, 5))  # fmt: skip
add("embedding", lambda m, x: m.fc(F.relu(m.b(m.e(x))).mean(1)), {"e": 6, "b": 7}, {("e", "e.weight", 1, 2): [2]},
    {("e.weight", 0): "rows looked up by data"}, inputs=lambda: (torch.arange(10).reshape(2, 5),),
    e=lambda: nn.Embedding(10, 6), b=lin(6, 7), fc=lin(7, 5))  # fmt: skip
add("mixer", lambda m, x: m.fc(m.t(m.a(x).transpose(1, 2)).transpose(1, 2)), {"a": 8}, {("a", "fc.weight", 1, 3): [3]},
    inputs=tokens, a=lin(6, 8), t=lin(5, 5), fc=lin(8, 5))  # fmt: skip
add("gram_matrix", lambda m, x: m.fc(torch.bmm(y := m.a(x).flatten(2), y.transpose(1, 2)).flatten(1)), {}, None,
    {("a.weight", 0): "merged with another dimension"}, a=conv(3, 4), fc=lin(16, 5))  # fmt: skip
add("matrix_products", lambda m,
    x: torch.addmm(m.bias, torch.mm(y := pool(m.a(x)), m.w), m.v) + torch.mv(y, m.u)[:, None],
    {"a": 8, "w": 6}, {("a", "w", 0, 3): [3], ("w", "v", 0, 3): [3], ("a", "u", 0, 3): [3]},
    a=conv(3, 8), w=par(8, 6), v=par(6, 5), u=par(8), bias=par(5))  # fmt: skip


# -------------------------------------------------------------------------------------------- in-place, inputs, outputs
def inplace(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y.relu_()
    z = m.b(y)
    z += y
    z.mul_(2.0)
    return m.fc(pool(z))


def inplace_on_part(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    first, _ = y.chunk(2, 1)
    first.mul_(3.0)
    return m.fc(pool(m.b(y)))


def inplace_zero(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y[:, 0] = 0
    return m.fc(pool(F.relu(m.b(y))))


add("inplace", inplace, {"a": 8}, {("a", "b.weight", 0, 3): [3]}, a=conv(3, 8), b=conv(8, 8), fc=lin(8, 5))
add("inplace_zero", inplace_zero, {"a": 7, "b": 6}, {("a", "b.weight", 1, 0): [1], ("b", "b.weight", 0, 5): [5]},
    a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("inplace_on_part", inplace_on_part, {"a": 4, "a#2": 4, "b": 6}, {("a#2", "b.weight", 1, 3): [7]},
    after=lambda model: model.requires_grad_(False), a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("several_outputs", lambda m, x: {"logits": m.fc(pool(y := m.b(m.a(x)))), "parts": (y, [y.sum((1, 2, 3))])},
    {"a": 8}, None,
    {("b.weight", 0): "output of the network"}, a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("two_inputs", lambda m, x, t: m.fc(pool(m.a(x)) * torch.sigmoid(m.b(t))), {"a": 8}, {("a", "b.weight", 0, 3): [3]},
    inputs=lambda: (*image(), *image(2, 4)), a=conv(3, 8), b=lin(4, 8), fc=lin(8, 5))  # fmt: skip
add("static_batch", lambda m, x: m.fc(pool(m.b(m.a(x).reshape(2, 8, 8, 8)))), {"a": 8, "b": 6}, a=conv(3, 8),
    b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("scaled_by_batch", lambda m, x: m.fc(pool(m.a(x) * x.shape[0])), {"a": 8}, a=conv(3, 8), fc=lin(8, 5))
add("half", lambda m, x: m.fc(pool(m.n(m.b(F.relu(m.a(x)))))), {"a": 8, "b": 6}, limit=1e-2,
    after=lambda model: model.half(),
    inputs=lambda: (image()[0].half(),), a=conv(3, 8), b=conv(8, 6), n=lambda: nn.BatchNorm2d(6),
    fc=lin(6, 5))  # fmt: skip
add("double", lambda m, x: m.fc(pool(m.b(F.relu(m.a(x))))), {"a": 8, "b": 6}, limit=1e-13,
    after=lambda model: model.double(),
    inputs=lambda: (image()[0].double(),), a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip

# ----------------------------------------------------------- what a removed channel leaves behind in the masked program
WITHOUT = "summed without weights"
add("sum_after_relu", lambda m, x: m.fc(F.relu(m.a(x)).sum(1).flatten(1)), {"a": 8}, a=conv(3, 8), fc=lin(64, 5))
add("sum_after_sigmoid", lambda m, x: m.fc(torch.sigmoid(m.a(x)).sum(1).flatten(1)), {}, None,
    {("a.weight", 0): WITHOUT},
    a=conv(3, 8), fc=lin(64, 5))  # fmt: skip
add("sum_of_spatial_sums", lambda m, x: m.fc((torch.sigmoid(m.a(x)).sum(2) - 0.5).sum(1)), {}, None,
    {("a.weight", 0): WITHOUT},
    a=conv(3, 8), fc=lin(8, 5))  # fmt: skip
add("sum_after_mixing", lambda m, x: m.fc(m.t(torch.sigmoid(m.a(x)).flatten(2)).sum(1)), {"t": 6}, None,
    {("a.weight", 0): WITHOUT},
    a=conv(3, 8), t=lin(64, 6), fc=lin(6, 5))  # fmt: skip
add("sum_after_mixing_with_bias", lambda m, x: m.fc(m.t(F.relu(m.a(x)).flatten(2)).sum(1)), {"t": 6}, None,
    {("a.weight", 0): WITHOUT},
    a=conv(3, 8), t=lin(64, 6), fc=lin(6, 5))  # fmt: skip
add("sum_after_mixing_without_bias", lambda m, x: m.fc(m.t(F.relu(m.a(x)).flatten(2)).sum(1)), {"a": 8, "t": 6},
    a=conv(3, 8), t=lin(64, 6, False), fc=lin(6, 5))  # fmt: skip
add("sum_after_glu", lambda m, x: m.fc((F.glu(torch.sigmoid(m.a(x)), 1) - 0.5).sum(1).flatten(1)), {}, None,
    {("a.weight", 0): WITHOUT},
    a=conv(3, 8), fc=lin(64, 5))  # fmt: skip
add("sum_after_prelu", lambda m, x: m.fc((m.p(m.a(x).cos() - 2) + 1).sum(1).flatten(1)), {}, None,
    {("a.weight", 0): WITHOUT},
    a=conv(3, 8), p=lambda: nn.PReLU(8), fc=lin(64, 5))  # fmt: skip
add("computed_kernel", lambda m, x: m.fc(pool(F.conv2d(torch.sigmoid(m.a(x)), torch.sigmoid(m.w)))), {"w": 6}, None,
    {("a.weight", 0): WITHOUT}, a=conv(3, 8), w=par(6, 8, 3, 3), fc=lin(6, 5))  # fmt: skip
add("computed_kernel_summed", lambda m, x: m.fc(F.conv2d(x, torch.sigmoid(m.w)).sum(1).flatten(1)), {}, None,
    {("w", 0): WITHOUT}, w=par(6, 3, 3, 3), fc=lin(36, 5))  # fmt: skip
add("computed_grouped_kernel", lambda m,
    x: m.fc(F.conv2d(torch.sigmoid(m.a(x)), torch.sigmoid(m.w), groups=8).sum(1).flatten(1)), {}, None,
    {("a.weight", 0): WITHOUT}, a=conv(3, 8), w=par(8, 1, 3, 3), fc=lin(36, 5))  # fmt: skip
add("computed_grouped_kernel_same_places",
    lambda m, x: m.fc(pool(F.conv2d(torch.sigmoid(m.a(x)), torch.sigmoid(m.w), groups=2))), {"w": 4},
    {("w", "w", 0, 1): [1, 5]}, {("a.weight", 0): WITHOUT}, a=conv(3, 8), w=par(8, 4, 3, 3), fc=lin(8, 5))  # fmt: skip
add("shifted_by_batch", lambda m, x: m.fc((F.relu(m.a(x)) + (x.shape[0] - 2)).sum(1).flatten(1)), {}, None,
    {("a.weight", 0): WITHOUT}, a=conv(3, 8), fc=lin(64, 5))  # fmt: skip
add("computed_bias", lambda m, x: m.fc(F.linear(x, m.w, torch.sigmoid(m.b)).sum(2)), {}, None, {("w", 0): WITHOUT},
    inputs=tokens, w=par(8, 6), b=par(8), fc=lin(5, 5))  # fmt: skip
add("computed_scale", lambda m,
    x: m.fc(F.batch_norm(torch.sigmoid(m.a(x)), m.mean, m.var, torch.sigmoid(m.w)).sum(1).flatten(1)), {}, None,
    {("a.weight", 0): WITHOUT}, a=conv(3, 8), mean=lambda: torch.zeros(8), var=lambda: torch.ones(8), w=par(8),
    fc=lin(64, 5))  # fmt: skip
add("constant_padding_value", lambda m, x: m.fc(F.pad(F.relu(m.a(x)), (1, 1), value=2.0).sum(1).flatten(1)), {}, None,
    {("a.weight", 0): WITHOUT}, a=conv(3, 8), fc=lin(80, 5))  # fmt: skip
add("reciprocal", lambda m, x: m.fc(pool(1.0 / m.a(x))), {}, None, {("a.weight", 0): "not finite"}, a=conv(3, 8),
    fc=lin(8, 5))  # fmt: skip
add("divided_by_a_channel", lambda m, x: m.fc(pool((y := m.a(x)) / (y[:, :1].abs() + 1.0))), {"a": 7},
    {("a", "a.weight", 0, 0): [1]},
    a=conv(3, 8), fc=lin(8, 5))  # fmt: skip
add("statistics_over_channels", lambda m, x: m.fc(torch.cat([f(m.a(x)) for f in (
        lambda y: y.mean(1), lambda y: y.amax(1), lambda y: y.softmax(1)[:, 0],
    lambda y: y.logsumexp((1, 2)).unsqueeze(1))], 1).flatten(1)),
    {}, None, {("a.weight", 0): "over the"}, a=conv(3, 8), fc=lin(200, 5))  # fmt: skip
add("logsumexp_in_space", lambda m, x: m.fc(m.a(x).logsumexp((2, 3))), {"a": 8}, a=conv(3, 8), fc=lin(8, 5))
add("zeros_and_copies", lambda m,
    x: m.fc(pool(torch.cat([y := m.a(x),
    y.new_zeros(x.shape[0], 8, 8, 8) + torch.zeros_like(y) + m.s.expand(x.shape[0], 8, 8, 8)], 1))),
    {"a": 8}, {("a", "fc.weight", 1, 3): [3, 11]}, a=conv(3, 8), s=par(1, 1, 1, 1), fc=lin(16, 5))  # fmt: skip

# ---------------------------------------------------------------------------------------------------- operators unknown
add("inverse", lambda m, x: m.fc(torch.linalg.inv(m.b(m.a(x)) + m.c).flatten(1)), {"a": 7}, None,
    {("b.weight", 0): "linalg_inv"},
    inputs=lambda: image(2, 6, 6), limit=1e-3, c=par(6, 6), a=lin(6, 7), b=lin(7, 6), fc=lin(36, 5))  # fmt: skip
add("cumsum", lambda m, x: m.fc(pool(m.b(m.a(x).cumsum(1)))), {"b": 6}, None, {("a.weight", 0): "cumsum"},
    a=conv(3, 8), b=conv(8, 6), fc=lin(6, 5))  # fmt: skip
add("unfold", lambda m, x: m.fc(F.unfold(m.a(x), 3).mean(2)), {"a": 4},
    {("a", "fc.weight", 1, 1): list(range(9, 18))}, a=conv(3, 4), fc=lin(36, 5))  # fmt: skip
add("fold", lambda m, x: m.fc(pool(F.fold(m.a(x).flatten(2)[:, :, :36], (8, 8), 3))), {"a": 2},
    {("a", "a.weight", 0, 1): list(range(9, 18)), ("a", "fc.weight", 1, 1): [1]},
    a=conv(3, 18), fc=lin(2, 5))  # fmt: skip
add("two_results", lambda m, x: m.fc(pool(torch.frexp(m.a(x))[0])), {}, None, {("a.weight", 0): "frexp"},
    a=conv(3, 4), fc=lin(4, 5))  # fmt: skip
add("looked_up_by_channels", lambda m, x: m.fc(m.e((pool(m.a(x)) > 0).long()).sum(1)), {"e": 6}, None,
    {("a.weight", 0): "index"},
    a=conv(3, 4), e=lambda: nn.Embedding(2, 6), fc=lin(6, 5))  # fmt: skip
add("indexed_by_weights", lambda m, x: m.fc(pool(m.a(x)[:, m.w.abs().clamp(max=3).long()])), {}, None,
    {("w", 0): "index", ("a.weight", 0): "indexed by data"},
    a=conv(3, 4), w=par(6), fc=lin(6, 5))  # fmt: skip
add("warped_by_channels", lambda m,
    x: m.fc(pool(F.grid_sample(m.b(x), m.a(x).permute(0, 2, 3, 1), align_corners=False))), {"b": 4}, None,
    {("a.weight", 0): "grid"}, a=conv(3, 2), b=conv(3, 4), fc=lin(4, 5))  # fmt: skip


# ----------------------------------------------------------------------------- what published networks brought to light
def autocast_region(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    with torch.autocast("cpu", enabled=False):
        y = F.relu(y.float())
    with torch.no_grad():
        scale = torch.sigmoid(m.b(y))
    return m.fc(pool(y * scale))


def response_norm(m: Any, x: Tensor) -> Tensor:
    """Global response normalisation (ConvNeXt V2): channels are scaled by their norm over the mean of all norms."""
    y = m.a(x)
    norm = y.norm(dim=(2, 3), keepdim=True)
    return m.fc(pool(y * (norm / (norm.mean(1, keepdim=True) + 1e-6)) * m.g + y))


def split(x: Tensor, heads: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def cosine_heads(m: Any, x: Tensor) -> Tensor:
    """Attention on normalised queries and keys with a scale per head (Swin V2)."""
    q, k, v = (split(part, 3) for part in m.qkv(x).chunk(3, 2))
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(2, 3) * m.scale.exp()
    return m.fc(m.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).mean(1))


def heads_in_batch(m: Any, x: Tensor) -> Tensor:
    """Heads merged into the batch, positions from a table that the heads share (SAM, MViT v2, BoTNet)."""
    q, k, v = (split(part, 3).flatten(0, 1) for part in m.qkv(x).chunk(3, 2))
    scores = q @ k.transpose(1, 2) + torch.einsum("bnd,nkd->bnk", q, m.table)[:, :, :]
    y = (scores.softmax(-1) @ v).unflatten(0, (-1, 3)).transpose(1, 2).flatten(2)
    return m.fc(m.o(y).mean(1))


def pooled_heads(m: Any, x: Tensor) -> Tensor:
    """A depthwise kernel over the head size that all heads share (MViT)."""
    y = split(m.a(x), 3).flatten(0, 1)
    y = m.k(y.transpose(1, 2)).transpose(1, 2).unflatten(0, (-1, 3)).transpose(1, 2).flatten(2)
    return m.fc(m.o(y).mean(1))


def rotated(m: Any, x: Tensor) -> Tensor:
    """Rotary positions on all tokens but the first none, in another element type."""
    q, k, v = (split(part, 3) for part in m.qkv(x).chunk(3, 2))

    def turn(y: Tensor) -> Tensor:
        first, rest = y[:, :, :0], y[:, :, 0:]
        half = torch.cat([-rest[..., 2:], rest[..., :2]], -1)
        return torch.cat([first, (rest * m.cos + half * m.sin).float()], 2).type_as(v)

    y = F.scaled_dot_product_attention(turn(q), turn(k), v)
    return m.fc(m.o(y.transpose(1, 2).flatten(2)).mean(1))


class Standardised(nn.Conv2d):
    """A convolution whose weight is standardised over its inputs, and scaled by a gain per filter."""

    def __init__(self, *sizes: int, **keywords: Any) -> None:
        super().__init__(*sizes, **keywords)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, self.gain.view(-1), training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


add("autocast_region", autocast_region, {"a": 8}, {("a", "b.weight", 1, 2): [2], ("a", "b.weight", 0, 2): [2]},
    a=conv(3, 8), b=conv(8, 8, 1), fc=lin(8, 5))  # fmt: skip
add("response_norm", response_norm, {"a": 8}, {("a", "g", 1, 2): [2]}, a=conv(3, 8), g=par(1, 8, 1, 1), fc=lin(8, 5))
add("mean_of_channels", lambda m, x: m.fc(m.a(x).mean((1, 2))), {"a": 8}, a=conv(3, 8), fc=lin(8, 5))
add("mean_of_sigmoids", lambda m, x: m.fc(torch.sigmoid(m.a(x)).mean((1, 2))), {}, None, {("a.weight", 0): WITHOUT},
    a=conv(3, 8), fc=lin(8, 5))  # fmt: skip
add("norm_of_channels", lambda m, x: m.fc(F.normalize(m.a(x), dim=1).mean((2, 3))), {"a": 8}, a=conv(3, 8),
    fc=lin(8, 5))  # fmt: skip
add("least_norm_of_channels", lambda m, x: m.fc(torch.linalg.vector_norm(m.a(x), -float("inf"), 1).mean(1)), {}, None,
    {("a.weight", 0): "statistic"}, a=conv(3, 8), fc=lin(8, 5))  # fmt: skip
add("cosine_heads", cosine_heads, {"qkv": 3, "o": 6},
    {("qkv", "qkv.weight", 0, 1): [2, 3, 8, 9, 14, 15], ("qkv", "scale", 0, 1): [1], ("qkv", "o.weight", 1, 1): [2, 3]},
    inputs=tokens, qkv=lin(6, 18), scale=par(3, 1, 1), o=lin(6, 6), fc=lin(6, 5))  # fmt: skip
add("heads_in_batch", heads_in_batch, {"qkv": 3, "o": 6}, {("qkv", "qkv.weight", 0, 1): [2, 3, 8, 9, 14, 15]},
    {("table", 2): "shared by the parts (heads)"},
    inputs=tokens, qkv=lin(6, 18), table=par(5, 5, 2), o=lin(6, 6), fc=lin(6, 5))  # fmt: skip
add("pooled_heads", pooled_heads, {"a": 3, "o": 6}, {("a", "a.weight", 0, 1): [4, 5, 6, 7]},
    {("k.weight", 0): "channels that cannot shrink"}, inputs=tokens,
    a=lin(6, 12), k=lambda: nn.Conv1d(4, 4, 3, padding=1, groups=4), o=lin(12, 6), fc=lin(6, 5))  # fmt: skip
add("rotated", rotated, {"qkv": 3, "o": 6}, {("qkv", "o.weight", 1, 1): [4, 5, 6, 7]}, inputs=tokens,
    qkv=lin(6, 36), cos=lambda: torch.randn(5, 4), sin=lambda: torch.randn(5, 4),
    o=lin(12, 6), fc=lin(6, 5))  # fmt: skip
add("standardised", lambda m, x: m.fc(pool(m.b(F.relu(m.a(x))))), {"a": 8, "b": 6}, {("a", "b.weight", 1, 3): [3]},
    a=lambda: Standardised(3, 8, 3, padding=1), b=lambda: Standardised(8, 6, 3, padding=1), fc=lin(6, 5))  # fmt: skip
add("lstm", lambda m, x: m.fc(m.r(m.a(x))[0].mean(1)), {"a": 8, "r": 4},
    {("a", "r.weight_ih_l0", 1, 2): [2], ("r", "r.weight_ih_l0", 0, 1): [1, 5, 9, 13],
     ("r", "r.weight_hh_l1_reverse", 0, 1): [1, 5, 9, 13], ("r", "r.weight_hh_l0", 1, 1): [1],
     ("r", "r.weight_ih_l1", 1, 1): [1, 5], ("r", "fc.weight", 1, 1): [1, 5]}, inputs=tokens,
    a=lin(6, 8), r=lambda: nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True), fc=lin(8, 5))  # fmt: skip
add("gru", lambda m, x: m.fc(m.r(x)[1][0]), {"r": 4}, {("r", "r.bias_hh_l0", 0, 3): [3, 7, 11]}, inputs=tokens,
    r=lambda: nn.GRU(6, 4, batch_first=True), fc=lin(4, 5))  # fmt: skip
add("pointwise_over_places", lambda m, x: m.fc((m.k(m.a(x)) @ m.v(x).transpose(1, 2)).mean(2)), {"a": 7, "k": 4},
    {("a", "v.weight", 0, 3): [3]}, inputs=tokens, a=lin(6, 7), k=lambda: nn.Conv1d(5, 4, 1, bias=False), v=lin(6, 7),
    fc=lin(4, 5))  # fmt: skip


def unrolled(m: Any, x: Tensor) -> Tensor:
    state = None
    for step in x.unbind(1):
        state = m.r(step, state)
    return m.fc(state[0] if isinstance(state, tuple) else state)


def begun(m: Any, x: Tensor) -> Tensor:
    # a state that is not zero where its unit is gone
    return m.fc(m.r(x[:, 0], torch.sigmoid(m.a(x[:, 1]))) + 1)


add("lstm_cell", unrolled, {"r": 4}, {("r", "r.weight_ih", 0, 1): [1, 5, 9, 13], ("r", "r.weight_hh", 1, 1): [1],
    ("r", "fc.weight", 1, 1): [1]}, inputs=tokens, r=lambda: nn.LSTMCell(6, 4), fc=lin(4, 5))  # fmt: skip
add("gru_cell", unrolled, {"r": 4}, {("r", "r.bias_hh", 0, 3): [3, 7, 11]}, inputs=tokens,
    r=lambda: nn.GRUCell(6, 4), fc=lin(4, 5))  # fmt: skip
add("rnn_cell", unrolled, {"r": 4}, {("r", "r.weight_hh", 0, 2): [2]}, inputs=tokens,
    r=lambda: nn.RNNCell(6, 4, bias=False, nonlinearity="relu"), fc=lin(4, 5))  # fmt: skip
add("gru_cell_begun", begun, {"a": 4}, {("a", "r.weight_ih", 0, 1): [1, 5, 9], ("a", "a.weight", 0, 1): [1]},
    inputs=tokens, a=lin(6, 4), r=lambda: nn.GRUCell(6, 4), fc=lin(4, 5))  # fmt: skip
add("integral", lambda m, x: F.linear(m.a(x).unflatten(1, (2, 4)).mean((3, 4)).softmax(2), m.v, m.b[0]), {}, None,
    {("a.weight", 0): "output of the network"}, a=conv(3, 8), v=lambda: nn.Parameter(torch.arange(4.0)),
    b=par(1))  # fmt: skip
add("vector_weight", lambda m, x: F.linear(m.a(x).mean((2, 3)).relu(), m.v).unsqueeze(1), {"a": 8},
    {("a", "v", 0, 3): [3]}, a=conv(3, 8), v=par(8))  # fmt: skip
add("bilinear", lambda m, x: m.fc(m.p(m.a(x), m.b(x)).relu().mean(1)), {"a": 7, "b": 4, "p": 6},
    {("a", "p.weight", 1, 2): [2], ("b", "p.weight", 2, 1): [1], ("p", "p.weight", 0, 3): [3]},
    inputs=tokens, a=lin(6, 7), b=lin(6, 4), p=lambda: nn.Bilinear(7, 4, 6), fc=lin(6, 5))  # fmt: skip
