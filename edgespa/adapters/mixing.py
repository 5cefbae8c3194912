"""Mixing adapters: removed filters of the frozen base are mixed into those that are kept.

After the equivalent pruning of Chen et al.: Optimal Brain Connection, 2025, https://arxiv.org/abs/2508.05521: a
compressor ``C`` behind a pruned layer and a decompressor ``D`` before the next one let all connections, also the pruned
ones, count while a network is tuned, and are merged afterwards.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from edgespa.adapters.base import PLAIN, Adapter, AdditiveAdapter, Place, Tensors, uniform
from edgespa.adapters.splora import UP_BOUND, SPLoRA
from edgespa.errors import AdapterError
from edgespa.selection.reconstruct import RIDGE, reweight, shrinkage

_FACTORS = ("compress", "rows_in", "columns_in", "expand")
_MASKS = ("rows", "columns")


class Mixing(AdditiveAdapter):
    """``W_task = C W D`` with the *whole* frozen weight ``W: [n, m, ...]``, also where channels are gone.

    ``C = P + compress @ rows_in``, ``[k, n]``, mixes its n filters into the k that are kept; ``D = Q + columns_in @
    expand``, ``[m, j]``, makes what its m input channels read of the j that are kept. P and Q are rows and columns of
    the identity. The product is one weight ``[k, j, ...]``: merging is exact, at every tap, and the shipped network is
    that of any other adapter.

    This is the network ``Wn D act(BN2(C BN(W x)))`` where the norms and activations between are per channel: the norm
    of the base's filters, ``BN``, is linear and its scale is a part of ``rows_in``; ``BN2`` is the network's own norm
    of the channels that are kept, which is trained and stored as with every kind.

    Starting values: ``compress`` and ``expand`` uniform in +-1e-4, so that training starts at the base; the others
    Kaiming-uniform. When input channels go, ``D`` takes what they were from those that stay (`absorbed`), the
    least-squares map that `edgespa.selection.reconstruct` has.

    Deviations from the paper: ``C`` and ``D`` are of low rank beside the identity, and every weight has its own instead
    of one pair per group, so that a task stores factors; they are there from the beginning and not only once channels
    are gone.

    A grouped, depthwise or transposed convolution, an embedding and a matrix that is not a layer's have no rows that
    could be mixed: there this kind gives a SPLoRA adapter.

    Args:
        factors: ``compress: [k, r]``, ``rows_in: [r, n]``, ``columns_in: [m, s]``, ``expand: [s, j]``; or ``change``
            alone, ``[k, j, ...]``, where that has fewer elements.
        masks: ``rows: [n]`` and ``columns: [m]``, 1 where kept; none beside ``change``.
        frozen: ``W``; only slicing does without.
    """

    kind = "mixing"
    defaults = MappingProxyType({"rank": 8})
    default_lr = 1e-2
    compress: nn.Parameter  # those of the factors are there unless there is `change`
    rows_in: nn.Parameter
    columns_in: nn.Parameter
    expand: nn.Parameter
    change: nn.Parameter | None
    frozen: Tensor | None

    def __init__(self, factors: Tensors, masks: Tensors, frozen: Tensor | None = None) -> None:
        super().__init__()
        for name in (*_FACTORS, "change"):
            self.register_parameter(name, nn.Parameter(factors[name]) if name in factors else None)
        for name in _MASKS:
            self.register_buffer(name, masks.get(name))
        self.register_buffer("frozen", None if frozen is None else frozen.detach(), persistent=False)

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See `Adapter.check_options`."""
        if int(options.get("rank", 1)) < 1:
            raise AdapterError(f"the rank must be at least 1, got {options['rank']}", "give a larger --rank")

    @classmethod
    def why_not(cls, weight: Tensor, place: Place) -> str | None:
        """See `Adapter.why_not`."""
        if place.operator == "conv" and place.groups > 1:
            what = "each filter of a depthwise convolution" if weight.shape[1] == 1 else "a filter of a group"
            return f"{what} reads channels of its own, so filters cannot be mixed"
        if place.operator not in ("linear", "conv") or (place.out_dim, place.in_dim) != (0, 1):
            return f"it stands in a {place.operator}, whose filters are not mixed"
        return None

    @classmethod
    def for_weight(
        cls, weight: Tensor, options: Mapping[str, Any], generator: torch.Generator, place: Place = PLAIN
    ) -> Adapter | None:
        """See `Adapter.for_weight`. ``rank`` is an upper bound: of either side, and where it would not be smaller."""
        cls.check_options(options)
        if weight.dim() < 2 or cls.why_not(weight, place) is not None:
            return SPLoRA.for_weight(weight, {**SPLoRA.defaults, **options}, generator, place)
        n, m = weight.shape[:2]
        rank = min(int(options["rank"]), (weight.numel() - 1) // (2 * (n + m)))
        if rank < 1:
            return None
        r, s = min(rank, n), min(rank, m)
        factors = {
            "rows_in": uniform((r, n), 1 / math.sqrt(n), weight, generator),
            "compress": uniform((n, r), UP_BOUND, weight, generator),
            "columns_in": uniform((m, s), 1 / math.sqrt(m), weight, generator),
            "expand": uniform((s, m), UP_BOUND, weight, generator),
        }
        masks = {
            name: torch.ones(size, dtype=torch.uint8, device=weight.device)
            for name, size in zip(_MASKS, (n, m), strict=True)
        }
        return cls(factors, masks, weight)

    @classmethod
    def from_tensors(
        cls, tensors: Tensors, options: Mapping[str, Any], shape: tuple[int, ...], place: Place = PLAIN
    ) -> Adapter:
        """See `Adapter.from_tensors`; factors of SPLoRA make an adapter of that."""
        if "down" in tensors:
            return SPLoRA.from_tensors(tensors, options, shape, place)
        if "change" in tensors:
            change = tensors["change"]
            if tuple(change.shape) != tuple(shape) or not change.is_floating_point():
                raise AdapterError(f"a change {tuple(change.shape)} does not fit a weight of shape {shape}")
            return cls({"change": change}, {})
        missing = [name for name in (*_FACTORS, *_MASKS) if name not in tensors]
        if missing:
            raise AdapterError(f"a mixing adapter needs the tensor '{missing[0]}'")
        factors = {name: tensors[name] for name in _FACTORS}
        masks = {name: tensors[name] for name in _MASKS}
        if not _fit(factors, masks, shape, place.frozen):
            sizes = ", ".join(f"{name} {tuple(each.shape)}" for name, each in {**factors, **masks}.items())
            raise AdapterError(f"the factors {sizes} do not fit a weight of shape {shape}")
        return cls(factors, masks, place.frozen)

    def delta(self) -> Tensor:
        """See `AdditiveAdapter.delta`: ``C W D - W[rows][:, columns]``."""
        if self.change is not None:
            return self.change
        if self.frozen is None:
            raise AdapterError("a mixing adapter needs the whole weight of the base", "open the task with its base")
        like = self.compress
        whole = self.frozen.to(like.dtype)
        n, m, *space = whole.shape
        flat = whole.reshape(n, -1)
        mixed = (self.compress @ (self.rows_in @ flat)).reshape(-1, m, math.prod(space))
        kept = flat.index_select(0, self._indices("rows")).reshape(mixed.shape)
        spread = torch.einsum("omt,ms->ots", kept + mixed, self.columns_in)
        result = mixed.index_select(1, self._indices("columns")) + torch.einsum("ots,sj->ojt", spread, self.expand)
        return result.reshape(result.shape[0], result.shape[1], *space)

    def _indices(self, mask: str) -> Tensor:
        found: Tensor = self.get_buffer(mask).nonzero().flatten()
        return found

    def sliced(self, dim: int, indices: Tensor) -> Mixing:
        """See `Adapter.sliced`: filters and channels that go are no longer written and read, and still mixed."""
        if dim > 1:
            raise AdapterError(f"a mixing adapter cannot be sliced along kernel dimension {dim}")
        if self.change is not None:
            return type(self)({"change": self.change.detach().index_select(dim, indices)}, {})
        factors = {name: getattr(self, name).detach() for name in _FACTORS}
        masks = {name: self.get_buffer(name) for name in _MASKS}
        factor, mask = (("compress", "rows"), ("expand", "columns"))[dim]
        factors[factor] = factors[factor].index_select(dim, indices)
        left = torch.zeros_like(masks[mask])
        left[self._indices(mask).index_select(0, indices)] = 1
        return type(self)(factors, {**masks, mask: left}, self.frozen)

    def settled(self) -> Mixing:
        """See `Adapter.settled`: the change itself, where it has fewer elements than the factors and masks."""
        if self.change is not None or self.frozen is None:
            return self
        size = self.compress.shape[0] * self.expand.shape[1] * math.prod(self.frozen.shape[2:])
        return type(self)({"change": self.delta().detach()}, {}) if size < self.size() else self

    def copied_to(self, device: torch.device) -> Mixing:
        """The same adapter on another device, with memory of its own."""
        return copy.deepcopy(self).to(device)

    @torch.no_grad()
    def absorbed(self, kept: Tensor, gram: Tensor, rows: int) -> Mixing:
        """The adapter whose ``D`` takes the input channels that are going from those that stay, as it is now.

        With ``a`` the channels that the weight reads now, ``a_gone ~ L a_kept`` by least squares, ``D' = D[:, kept] +
        D[:, gone] L``. Its part beside the identity is brought to the rank of the factors so that ``W D' a_kept``
        changes least: the best approximation of ``W (D' - Q) F`` with ``F F^T`` the second moments of ``a_kept``.

        Args:
            kept: Indices of the channels that stay, among those that are there; ascending.
            gram: ``sum a a^T``, ``[j, j]``, float64.
            rows: How many ``a`` that is the sum of; where they are few, ``L`` is smaller.

        Returns:
            As wide as now: columns of ``expand`` that belong to channels that are going are zero.
        """
        if self.change is not None or self.frozen is None:
            return self
        there = torch.zeros(len(gram), dtype=torch.bool)
        there[kept] = True
        gone = (~there).nonzero().flatten()
        if not len(gone) or float(gram.diagonal().max()) <= 0:
            return self
        ridge = shrinkage(gram, rows, constant=False)
        heavy = gram.clone()
        heavy.diagonal().add_(ridge + RIDGE * float(gram.diagonal().max()))
        cross = gram[:, gone]
        found = reweight(heavy, cross, kept)[kept].T  # L, [gone, kept]
        inner, outer = self.columns_in.double(), self.expand.double()
        change = inner @ (outer[:, kept] + outer[:, gone] @ found)  # D' - Q, [m, kept]
        change[self._indices("columns")[gone]] += found
        flat = self.frozen.double().movedim(1, 0).flatten(1)  # [m, n * taps]
        root = torch.linalg.cholesky(heavy[kept][:, kept])
        seen = flat.T @ change @ root
        _, vectors = torch.linalg.eigh(seen.T @ seen)
        chosen = vectors[:, -inner.shape[1] :].flip(1)  # [kept, at most s]
        left = change @ root @ chosen
        right = torch.linalg.solve_triangular(root.T, chosen, upper=True).T  # V^T F^-1
        balance = (right.norm(dim=1) / left.norm(dim=0).clamp_min(1e-30)).sqrt()
        new_inner, new_outer = torch.zeros_like(inner), torch.zeros_like(outer)
        new_inner[:, : chosen.shape[1]] = left * balance
        new_outer[: chosen.shape[1], kept] = right / balance[:, None]
        factors = {name: getattr(self, name).detach() for name in _FACTORS}
        like = self.columns_in
        factors |= {"columns_in": new_inner.to(like.dtype), "expand": new_outer.to(like.dtype)}
        return type(self)(factors, {name: self.get_buffer(name) for name in _MASKS}, self.frozen)


def _fit(factors: Tensors, masks: Tensors, shape: tuple[int, ...], frozen: Tensor | None) -> bool:
    each = list(factors.values())
    if len(shape) < 2 or any(factor.dim() != 2 or not factor.is_floating_point() for factor in each):
        return False
    if any(mask.dim() != 1 or mask.dtype != torch.uint8 for mask in masks.values()):
        return False
    if len({factor.dtype for factor in each}) > 1:
        return False
    compress, rows_in, columns_in, expand = each
    n, m = (len(masks[name]) for name in _MASKS)
    fits = compress.shape[1] == rows_in.shape[0] and columns_in.shape[1] == expand.shape[0]
    fits = fits and (rows_in.shape[1], columns_in.shape[0]) == (n, m)
    fits = fits and (compress.shape[0], expand.shape[1]) == tuple(shape[:2])
    if not fits:
        return False
    if frozen is not None and tuple(frozen.shape) != (n, m, *shape[2:]):
        return False
    if compress.device.type == "meta":
        return True
    return all(int(masks[name].bool().sum()) == size and int(masks[name].max()) <= 1 for name, size in
               zip(_MASKS, shape[:2], strict=True))  # fmt: skip
