"""SPLoRA: a structured pruning low-rank adapter.

Hedegaard, Alok, Jose, Iosifidis: Structured Pruning Adapters, 2022, https://arxiv.org/abs/2211.10155, section 4.1.
"""

from __future__ import annotations

from types import MappingProxyType

from edgespa.adapters.lowrank import LowRank

UP_BOUND = 1e-4


class SPLoRA(LowRank):
    """``delta = up @ down`` (eq. 6); rows of ``up`` and columns of ``down`` go with the channels (eq. 7).

    The published convolution form is the centre tap, the default here. Initial values: ``down`` Kaiming-uniform,
    ``up`` uniform in +-1e-4. Deviation from the published code: the adapter is sliced with the weight, so removed
    channels cannot come back.
    """

    kind = "splora"
    defaults = MappingProxyType({"rank": 8, "kernel": "centre"})
    default_lr = 2e-2
    up_bound = UP_BOUND
