"""LoRA: a low-rank adapter.

Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, 2021, https://arxiv.org/abs/2106.09685, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from edgespa.adapters.lowrank import LowRank
from edgespa.errors import AdapterError


class LoRA(LowRank):
    """``delta = alpha / r * up @ down``, ``up`` zero and ``down`` Kaiming-uniform at the start.

    Convolutions by their full kernel: ``down`` is a kh x kw convolution to r channels, ``up`` a 1 x 1 one, as in the
    common implementations. Deviations: every linear and convolution layer is adapted, not the attention projections
    alone, and norms and biases are trained as with every kind here; the factors are sliced with removed channels.
    """

    kind = "lora"
    defaults = MappingProxyType({"rank": 8, "alpha": 8.0})
    default_lr = 2e-2

    @classmethod
    def kernel_of(cls, options: Mapping[str, Any]) -> str:
        """Always the full kernel."""
        return "full"

    @classmethod
    def scale_of(cls, options: Mapping[str, Any], rank: int) -> float:
        """``alpha / r``, with the rank that the layer has."""
        return float(options.get("alpha", cls.defaults["alpha"])) / rank

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See `Adapter.check_options`."""
        super().check_options(options)
        if not float(options.get("alpha", 1.0)) > 0:
            raise AdapterError(f"alpha must be positive, got {options['alpha']}", "give --adapter-option alpha=8")
