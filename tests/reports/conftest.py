"""Networks as plain values, made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def layer(tensor: str, shape: list[int], operator: str = "conv2d", groups: int = 1) -> dict[str, Any]:
    return {"tensor": tensor, "operator": operator, "shape": shape, "in": 1, "out": 0, "groups": groups}


def group(name: str, units: int, slots: dict[tuple[str, int], list[list[int]]]) -> dict[str, Any]:
    return {
        "name": name,
        "units": units,
        "channels_per_unit": 1,
        "parameters": 10 * units,
        "macs": 100 * units,
        "slots": [{"tensor": tensor, "dim": dim, "units": indices} for (tensor, dim), indices in slots.items()],
    }


def fixed(tensor: str, dim: int, indices: list[int], cause: str, kind: str = "inner") -> dict[str, Any]:
    return {
        "tensor": tensor, "dim": dim, "indices": indices, "reason": f"{cause} (at x)", "cause": cause, "kind": kind,
    }  # fmt: skip


def singles(first: int, last: int) -> list[list[int]]:
    return [[index] for index in range(first, last)]


def network(
    layers: list[dict[str, Any]], groups: list[dict[str, Any]], fixes: list[dict[str, Any]], model: str = "net.py:net"
) -> dict[str, Any]:
    units = sum(each["units"] for each in groups)
    return {
        "model": model,
        "totals": {"parameters": 1000, "macs": 10**6, "size_bytes": 4000},
        "prunable": {"units": units, "groups": len(groups), "channel_share": 0.5},
        "groups": groups,
        "layers": layers,
        "fixed": fixes,
    }


@pytest.fixture
def stream() -> dict[str, Any]:
    """A stem of 4 channels, a depthwise layer, a block that adds to the stream, a head that reads it."""
    return network(
        [
            layer("stem.weight", [4, 3, 3, 3]),
            layer("body.0.depth.weight", [4, 1, 3, 3], groups=4),
            layer("body.0.inner.weight", [6, 4, 1, 1]),
            layer("body.0.outer.weight", [4, 6, 1, 1]),
            layer("head.weight", [2, 4], "linear"),
        ],
        [
            group(
                "stem",
                4,
                {
                    ("stem.weight", 0): singles(0, 4),
                    ("body.0.depth.weight", 0): singles(0, 4),
                    ("body.0.inner.weight", 1): singles(0, 4),
                    ("body.0.outer.weight", 0): singles(0, 4),
                    ("head.weight", 1): singles(0, 4),
                    ("norm.weight", 0): singles(0, 4),
                },
            ),
            group(
                "body.0.inner",
                6,
                {("body.0.inner.weight", 0): singles(0, 6), ("body.0.outer.weight", 1): singles(0, 6)},
            ),
        ],
        [
            fixed("stem.weight", 1, [0, 1, 2], "input of the network", "boundary"),
            fixed("stem.weight", 2, [0, 1, 2], "kernel extent", "kernel"),
            fixed("head.weight", 0, [0, 1], "output of the network", "boundary"),
        ],
    )


@pytest.fixture
def many() -> Callable[[int, int], dict[str, Any]]:
    """``many(layers, length)``: as many layers in a dense block, each reading all before, with names of a length."""

    def make(count: int, length: int) -> dict[str, Any]:
        names = [f"block.{'n' * length}{index}.{'conv' * 3}.weight" for index in range(count)]
        layers = [layer(name, [4, max(4 * index, 3), 3, 3]) for index, name in enumerate(names)]
        groups = [
            group(
                name.removesuffix(".weight"),
                4,
                {
                    (name, 0): singles(0, 4),
                    **{(later, 1): singles(4 * index, 4 * index + 4) for later in names[index + 1 :]},
                },
            )
            for index, name in enumerate(names)
        ]
        reasons = [fixed(names[0], 1, [0, 1, 2], f"reason {'r' * 30} " * 4 + str(i)) for i in range(3)]
        return network(layers, groups, reasons, "m" * 400)

    return make
