"""Rows, bars, lanes and colours of the drawing, against what is known by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgespa.reports.groups_layout import MAX_LANES, MAX_RUNS, PALETTE, Lane, Part, colours, lanes, module_rows


def test_rows_follow_the_module_tree(stream: dict[str, Any]) -> None:
    rows = module_rows(stream)
    assert [(row.depth, row.label, row.path) for row in rows] == [
        (0, "stem", "stem"),
        (0, "body.0", "body.0"),
        (1, "depth", "body.0.depth"),
        (1, "inner", "body.0.inner"),
        (1, "outer", "body.0.outer"),
        (0, "head", "head"),
    ]
    assert rows[1].layer is None


def test_bars_say_the_group_of_every_channel(stream: dict[str, Any]) -> None:
    stem, _, depth, inner, outer, head = module_rows(stream)
    assert stem.reads == (Part(3, 0, "input of the network (at x)"),)
    assert stem.writes == (Part(4, 1),)
    assert depth.depthwise
    assert (depth.reads, depth.writes) == ((), (Part(4, 1),))
    assert (inner.reads, inner.writes) == ((Part(4, 1),), (Part(6, 2),))
    assert (outer.reads, outer.writes) == ((Part(6, 2),), (Part(4, 1),))
    assert head.writes == (Part(2, 0, "output of the network (at x)"),)


def test_a_tensor_beside_submodules_and_another_leaf_keep_their_names(stream: dict[str, Any]) -> None:
    stream["layers"] = [
        {**stream["layers"][0], "tensor": name}
        for name in ("attn.in_proj_weight", "attn.out.weight", "weight", "body.weight", "body.part.weight")
    ]
    rows = [(row.depth, row.label, row.path, row.layer is not None) for row in module_rows(stream)]
    assert rows == [
        (0, "attn", "attn", False),
        (1, "in_proj_weight", "attn.in_proj_weight", True),
        (1, "out", "attn.out", True),
        (0, "weight", "weight", True),
        (0, "body", "body", True),
        (1, "part", "body.part", True),
    ]


def test_interleaved_channels_are_counted(stream: dict[str, Any]) -> None:
    size = 4 * MAX_RUNS
    stream["layers"][0]["shape"] = [size, 3, 3, 3]
    for number in (0, 1):
        units = [[index] for index in range(number, size, 2)]
        stream["groups"][number]["slots"] = [{"tensor": "stem.weight", "dim": 0, "units": units}]
    assert module_rows(stream)[0].writes == (Part(size // 2, 1), Part(size // 2, 2))


def test_lanes_and_colours(stream: dict[str, Any]) -> None:
    rows = module_rows(stream)
    assert lanes(rows, 2) == [Lane(1, 0, (0, 2, 4), (3, 5)), Lane(2, 1, (3,), (4,))]
    fixed, shared, private = colours(rows, 2)
    assert shared.fill == PALETTE[0]
    assert private.fill not in PALETTE  # pale: two layers
    assert fixed.fill not in (shared.fill, private.fill)


def test_lanes_of_one_column_do_not_meet(many: Callable[[int, int], dict[str, Any]]) -> None:
    rows = module_rows(many(60, 5))
    found = lanes(rows, 60)
    assert max(lane.column for lane in found) == MAX_LANES - 1
    assert len(found) < 60
    for one in found:
        for other in found:
            if one is not other and one.column == other.column:
                assert one.span[1] < other.span[0] or other.span[1] < one.span[0]
