"""SPLoPA: a structured pruning adapter of low-rank prototypes in blocks.

Hedegaard, Alok, Jose, Iosifidis: Structured Pruning Adapters, 2022, https://arxiv.org/abs/2211.10155, section 4.2.
Block masks by movement: Sanh, Wolf, Rush: Movement Pruning, 2020, https://arxiv.org/abs/2005.07683, sections 4 and 5;
Lagunas et al.: Block Pruning For Faster Transformers, 2021, https://arxiv.org/abs/2109.04838.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

from edgespa.adapters.base import PLAIN, Adapter, Place, Tensors, require_choice, uniform
from edgespa.adapters.lowrank import KERNELS, at_centre
from edgespa.errors import AdapterError

MASKS = ("none", "magnitude", "movement", "threshold")
COEFFICIENT_BOUND = 1e-4


class SPLoPA(Adapter):
    """``W_task = (W + sum_i B_i kron (p_i q_i^T)) * (M kron 1)``, in blocks of ``block x block`` channels.

    The prototypes ``p_i q_i^T`` (``left: [n, block]``, ``right: [n, block]``) belong to the *model*: all layers share
    them. A layer has the coefficients ``B: [n, R, C, taps]``, with R x C blocks over its first two dimensions (the last
    ones partial) and one tap (``kernel="centre"``) or all of them (``"full"``), and the block mask ``M: [R, C]``, which
    masks the frozen weight too, at every tap. ``scores: [R, C]`` train with the masks ``movement`` and ``threshold``:
    the forward pass takes M, the backward pass gives the scores its gradient (straight through), which for a block is
    ``sum dL/dW_task * (W + dW)``. The mask itself changes at pruning steps only, see `edgespa.adapters.blocks`
    (a deviation: the movement papers change it at each step).

    When channels are removed, rows and columns go; ``rows`` and ``columns`` say where in its blocks each remaining
    index was (``block index * block + offset``), and blocks without any index go with their coefficients. A task stores
    the coefficients of kept blocks only, packed ``[n, kept, taps]``.

    ``B`` starts uniform in +-1e-4, the prototypes uniform in +-block**-0.25, so that a coefficient of 1 moves a weight
    by about the standard deviation of a Kaiming-initialised layer of ``block`` inputs.
    """

    kind = "splopa"
    defaults = MappingProxyType(
        {
            "block": 32,
            "prototypes": 8,
            "kernel": "centre",
            "mask": "none",
            "block_density": 0.5,
            "threshold": 0.5,
            "penalty": 0.01,
        }
    )
    default_lr = 3e-2

    def __init__(
        self,
        coefficients: Tensor,
        shape: tuple[int, ...],
        shared: Mapping[str, nn.Parameter],
        rows: Tensor,
        columns: Tensor,
        mask: Tensor | None = None,
        scores: Tensor | None = None,
        *,
        packed: bool = False,
    ) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(coefficients)
        self.scores = None if scores is None else nn.Parameter(scores)
        self.mask: Tensor | None
        self.register_buffer("mask", mask)
        self.rows: Tensor
        self.columns: Tensor
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        self.shape = tuple(shape)
        self.packed = packed  # whether coefficients of masked blocks are left out when it is stored
        self._shared = (shared["left"], shared["right"])  # in a tuple: they are the model's, not this module's

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See `Adapter.check_options`."""
        require_choice("SPLoPA kernel", str(options["kernel"]), KERNELS)
        require_choice("block mask", str(options["mask"]), MASKS)
        if int(options["block"]) < 1 or int(options["prototypes"]) < 1:
            raise AdapterError("block and prototypes must be at least 1", "give --adapter-option block=32")
        for key in ("block_density", "threshold"):
            if not 0 < float(options[key]) <= 1:
                raise AdapterError(f"{key} must be in (0, 1], got {options[key]}", f"give --adapter-option {key}=0.5")
        if not float(options["penalty"]) >= 0:
            raise AdapterError(f"penalty must not be negative, got {options['penalty']}", "give penalty=0.01")

    @classmethod
    def shared(cls, options: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """The prototypes of a model."""
        count, block = int(options["prototypes"]), int(options["block"])
        bound, like = block**-0.25, torch.zeros(0)
        return {side: uniform((count, block), bound, like, generator) for side in ("left", "right")}

    @classmethod
    def for_weight(
        cls, weight: Tensor, options: Mapping[str, Any], generator: torch.Generator, place: Place = PLAIN
    ) -> Self | None:
        """See `Adapter.for_weight`. A weight with a single column, or not larger than its coefficients, gets none."""
        if weight.dim() < 2 or weight.shape[1] == 1:
            return None
        count, block = place.shared["left"].shape
        shape = tuple(weight.shape)
        blocks = (-(-shape[0] // block), -(-shape[1] // block))
        taps = weight[0, 0].numel() if options["kernel"] == "full" else 1
        if count * blocks[0] * blocks[1] * taps >= weight.numel():
            return None
        coefficients = uniform((count, *blocks, taps), COEFFICIENT_BOUND, weight, generator)
        device = weight.device
        masked = str(options["mask"])
        return cls(
            coefficients,
            shape,
            place.shared,
            torch.arange(shape[0], dtype=torch.int32, device=device),
            torch.arange(shape[1], dtype=torch.int32, device=device),
            None if masked == "none" else torch.ones(blocks, dtype=torch.uint8, device=device),
            torch.zeros(blocks, device=device) if masked in ("movement", "threshold") else None,
        )

    @classmethod
    def from_tensors(
        cls, tensors: Tensors, options: Mapping[str, Any], shape: tuple[int, ...], place: Place = PLAIN
    ) -> Self:
        """See `Adapter.from_tensors`."""
        if "left" not in place.shared or "right" not in place.shared:
            raise AdapterError("a SPLoPA adapter needs the shared tensors 'left' and 'right'")
        left, right = place.shared["left"], place.shared["right"]
        own = tensors.get("coefficients")
        if left.dim() != 2 or left.shape != right.shape or own is None or not own.is_floating_point():
            raise AdapterError("a SPLoPA adapter needs the tensor 'coefficients' and matching prototypes")
        count, block = left.shape
        mask, scores = tensors.get("mask"), tensors.get("scores")
        positions = []
        for dim, key in enumerate(("rows", "columns")):
            size = shape[dim] if len(shape) >= 2 else -1
            given = tensors.get(key)
            own_positions = torch.arange(size, dtype=torch.int32) if given is None and size >= 0 else given
            if own_positions is None or own_positions.shape != (size,) or own_positions.is_floating_point():
                raise AdapterError(f"SPLoPA {key} do not fit a weight of shape {shape}")
            positions.append(own_positions.to(own.device))
        rows, columns = positions
        packed = own.dim() == 3 and mask is not None and mask.dim() == 2 and own.shape[1] == int(mask.sum())
        if packed and mask is not None:
            kept, own = own, own.new_zeros(own.shape[0], *mask.shape, own.shape[2])
            own[:, mask.bool()] = kept
        blocks = tuple(
            int(own_positions.max()) // block + 1 if len(own_positions) else 0 for own_positions in positions
        )
        taps = torch.Size(shape[2:]).numel() if options.get("kernel") == "full" else 1
        fits = tuple(own.shape) == (count, *blocks, taps)
        fits = fits and all(tensor is None or tuple(tensor.shape) == blocks for tensor in (mask, scores))
        if not fits or any(len(each) and int(each.min()) < 0 for each in positions):
            raise AdapterError(f"SPLoPA coefficients {tuple(own.shape)} do not fit a weight of shape {shape}")
        return cls(own, shape, place.shared, rows, columns, mask, scores, packed=packed)

    @property
    def block(self) -> int:
        """Channels along one side of a block."""
        return self._shared[0].shape[1]

    def delta(self) -> Tensor:
        """``sum_i B_i kron (p_i q_i^T)`` at the channels that are left, in the weight's shape, without the mask."""
        left, right = self._shared
        block = self.block
        rows, columns = self.rows.long(), self.columns.long()
        # [n, out, C, taps]: the coefficient of each row, times its place in the prototype
        spread = self.coefficients.index_select(1, rows // block)
        spread = spread * left.to(spread).index_select(1, rows % block)[:, :, None, None]
        values = torch.einsum("noct,nq->octq", spread, right.to(spread)).permute(0, 2, 1, 3)
        values = values.flatten(2).index_select(2, columns).transpose(1, 2)  # [out, in, taps]
        if values.shape[2] == 1 and len(self.shape) > 2:
            return at_centre(values.reshape(*self.shape[:2], *(1 for _ in self.shape[2:])), self.shape[2:])
        return values.reshape(self.shape)

    def gate(self) -> Tensor | None:
        """The mask over rows and columns, ``[out, in, 1, ...]``, through which scores get their gradient."""
        if self.mask is None:
            return None
        gate = self.mask.to(self.coefficients.dtype)
        if self.scores is not None:
            gate = gate + (self.scores - self.scores.detach())
        block = self.block
        gate = gate.index_select(0, self.rows.long() // block).index_select(1, self.columns.long() // block)
        return gate.reshape(*self.shape[:2], *(1 for _ in self.shape[2:]))

    def changed(self, weight: Tensor) -> Tensor:
        """See `Adapter.changed`."""
        result = weight + self.delta().to(weight.dtype)
        gate = self.gate()
        return result if gate is None else result * gate.to(weight.dtype)

    def sliced(self, dim: int, indices: Tensor) -> Self:
        """See `Adapter.sliced`."""
        if dim > 1:
            raise AdapterError(f"a SPLoPA adapter cannot be sliced along kernel dimension {dim}")
        block = self.block
        positions = (self.rows, self.columns)[dim].index_select(0, indices)
        used, renumbered = torch.unique(positions.long() // block, return_inverse=True)
        positions = (renumbered * block + positions % block).to(torch.int32)
        shape = list(self.shape)
        shape[dim] = len(indices)
        return type(self)(
            self.coefficients.detach().index_select(dim + 1, used),
            tuple(shape),
            dict(zip(("left", "right"), self._shared, strict=True)),
            positions if dim == 0 else self.rows,
            positions if dim == 1 else self.columns,
            None if self.mask is None else self.mask.index_select(dim, used),
            None if self.scores is None else self.scores.detach().index_select(dim, used),
            packed=self.packed,
        )

    def with_mask(self, mask: Tensor) -> None:
        """Set the block mask, in place.

        Args:
            mask: Boolean ``[R, C]``.
        """
        assert self.mask is not None
        self.mask.copy_(mask)

    def settled(self) -> Self:
        """Without scores, and packed."""
        shared = dict(zip(("left", "right"), self._shared, strict=True))
        own, mask = self.coefficients.detach(), self.mask
        return type(self)(own, self.shape, shared, self.rows, self.columns, mask, packed=mask is not None)

    def tensors(self) -> dict[str, Tensor]:
        """What has to be stored: positions only if they are not 0, 1, 2..."""
        stored = super().tensors()
        for key, size in (("rows", self.shape[0]), ("columns", self.shape[1])):
            if torch.equal(stored[key], torch.arange(size, dtype=torch.int32, device=stored[key].device)):
                del stored[key]
        if self.packed and self.mask is not None:
            stored["coefficients"] = stored["coefficients"][:, self.mask.bool()]
        return stored
