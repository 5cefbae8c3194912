"""Figures of components, by hand: what is wrong must be seen, and what is right must pass."""

from __future__ import annotations

import numpy as np
import pytest

from edgespa.device.measure.results import Check
from edgespa.device.runner import RunnerError, compare, exceeded, scales_of

RNG = np.random.default_rng(3)
LOSSY = {"component_error": 0.3}
EXACT = {"tolerance_used": 1.0}


def boxes_and_scores(samples: int = 64, anchors: int = 16) -> np.ndarray:
    """[N, 4 + 3, anchors]: boxes in pixels on a grid, which is most of them, and scores in 0..1."""
    grid = np.linspace(0, 640, anchors)
    boxes = grid + 12 * RNG.standard_normal((samples, 4, anchors))
    scores = 1 / (1 + np.exp(-RNG.standard_normal((samples, 3, anchors))))
    return np.concatenate([boxes, scores], 1).astype(np.float32)


def test_figures_of_each_component_are_those_of_its_own_spread() -> None:
    b = np.array([[0.0, 100.0], [2.0, 100.5], [4.0, 101.0], [6.0, 101.5]], dtype=np.float32)
    a = b + np.array([[0.1, -0.1], [0.1, 0.1], [-0.1, -0.1], [-0.1, 0.1]], dtype=np.float32)
    found = compare([a], [b])
    # Spreads: sqrt(5) and sqrt(5) / 4.
    assert found["component_error"] == pytest.approx(0.1 / (5**0.5 / 4), rel=1e-4)
    assert found["worst"] == "output_0[:, 1]"
    second = np.corrcoef(a[:, 1], b[:, 1])[0, 1]
    assert found["correlation"] == pytest.approx(second, abs=1e-6)
    assert (found["components"], found["varying"], found["constant"]) == (2, 2, 0)
    assert found["cosine"] > 0.999999  # what was looked at before


def test_constant_scores_beside_boxes_in_pixels_are_seen() -> None:
    b = boxes_and_scores()
    a = b.copy()
    a[:, 4:] = 0.5
    found = compare([a], [b])
    assert found["cosine"] > 0.99999
    assert found["constant"] == 3  # the three scores, which are components of axis 1
    assert "do not depend on the input" in exceeded(found, {})[0]
    assert exceeded(found, LOSSY) != []


def test_what_is_the_same_for_every_input_is_no_spread() -> None:
    # A file that gives the grid alone: nearly all of the numbers, and nothing of what the network says.
    b = boxes_and_scores()
    a = b.copy()
    a[:, :4] = b[:, :4].mean(axis=0)
    found = compare([a], [b])
    assert found["cosine"] > 0.99
    assert found["constant"] >= 4
    assert found["component_error"] == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("layout", ["fields in the middle", "fields last", "images", "images, channels last"])
def test_whatever_axis_holds_the_fields(layout: str) -> None:
    b = boxes_and_scores()
    a = b.copy()
    a[:, 5] = b[:, 5].mean()
    turn = {
        "fields in the middle": lambda x: x,
        "fields last": lambda x: x.transpose(0, 2, 1),
        "images": lambda x: x.reshape(64, 7, 4, 4),
        "images, channels last": lambda x: x.reshape(64, 7, 4, 4).transpose(0, 2, 3, 1),
    }[layout]
    right = compare([turn(b) * np.float32(1 + 1e-7)], [turn(b)])
    assert exceeded(right, EXACT) == []
    found = compare([turn(a)], [turn(b)])
    assert found["constant"] >= 1
    assert exceeded(found, LOSSY) != []


def test_one_answer_about_a_large_mean_is_seen() -> None:
    b = (1013 + 0.3 * RNG.standard_normal((64, 1))).astype(np.float32)
    a = np.full_like(b, 1013.0)
    found = compare([a], [b])
    assert found["cosine"] > 0.9999999
    assert (found["constant"], found["varying"]) == (1, 1)
    moved = compare([b + np.float32(0.2)], [b])  # follows the input, and is off by two thirds of all it varies
    assert moved["correlation"] > 0.999
    assert exceeded(moved, LOSSY) != []


def test_outputs_by_name_are_judged_apart() -> None:
    boxes, scores = np.split(boxes_and_scores(), [4], axis=1)
    found = compare([boxes, scores * 0 + np.float32(0.3)], [boxes, scores])
    assert found["worst"].startswith("output_1")
    assert exceeded(found, LOSSY) != []


def test_components_that_do_not_vary_must_stay_where_they_are() -> None:
    b = np.concatenate([RNG.standard_normal((32, 2)), np.full((32, 1), 40.0), np.zeros((32, 1))], 1).astype(np.float32)
    found = compare([b], [b])
    assert (found["components"], found["varying"]) == (4, 2)
    assert exceeded(found, {**EXACT, **LOSSY}) == []
    for column, error in ((2, 20.0), (3, 0.5)):
        a = b.copy()
        a[:, column] += error
        assert exceeded(compare([a], [b]), LOSSY) != []
        assert exceeded(compare([a], [b]), EXACT) != []
    a = b.copy()
    a[:, 2] += 0.01  # of 40
    assert exceeded(compare([a], [b]), LOSSY) == []


def test_float32_files_may_be_as_wrong_as_the_network_itself() -> None:
    exact = RNG.standard_normal((16, 5))
    b = (exact + 3e-4 * RNG.standard_normal((16, 5))).astype(np.float32)  # a network that amplifies rounding
    a = (exact + 3e-4 * RNG.standard_normal((16, 5))).astype(np.float32)
    assert exceeded(compare([a], [b]), EXACT) != []
    scales = scales_of([b], [(b, exact, None)])
    assert exceeded(compare([a], [b], scales), EXACT) == []
    a[:, 3] += 0.02
    assert "at output_0[:, 3]" in exceeded(compare([a], [b], scales), EXACT)[0]


def test_a_small_error_of_large_boxes_is_a_large_one_of_scores() -> None:
    b = boxes_and_scores()
    a = b.copy()
    a[:, 4:] += np.float32(0.03)  # 5e-5 of 640
    found = compare([a], [b])
    assert found["relative_error"] < 1e-4
    assert exceeded(found, EXACT) != []


def test_what_runtimes_round_of_a_sigmoid_is_no_fault() -> None:
    b = np.full((32, 3), 1e-5) + 1e-6 * RNG.standard_normal((32, 3))
    assert exceeded(compare([b + 6e-8], [b]), EXACT) == []
    dead = np.full_like(b, 1e-5)  # as near, and does not follow
    assert exceeded(compare([dead], [b]), EXACT) != []


def test_whole_numbers_are_compared_by_how_many_differ() -> None:
    b = RNG.integers(0, 5, (20, 8, 8))
    a = b.copy()
    assert exceeded(compare([a], [b]), {**EXACT, **LOSSY}) == []
    a[0, 0, 0] += 1  # of 1280
    assert exceeded(compare([a], [b]), {**EXACT, **LOSSY}) == []
    a[:, :2] += 1
    assert exceeded(compare([a], [b]), EXACT) != []
    mostly = np.where(RNG.random((20, 50)) < 0.03, 1, 0)  # background, and a little else
    found = compare([np.zeros_like(mostly)], [mostly])
    assert found["component_error"] > 0.5
    assert exceeded(found, LOSSY) != []


def test_few_samples_are_judged_by_the_spread_over_many() -> None:
    b = RNG.standard_normal((64, 4)).astype(np.float32)
    scales = scales_of([b])
    a = b + np.float32(0.1) * RNG.standard_normal((64, 4)).astype(np.float32)
    one = compare([a[:1]], [b[:1]], scales)
    assert one["component_error"] < 0.4
    assert one["correlation"] is None
    dead = compare([np.broadcast_to(b.mean(0), b.shape)[:3]], [b[:3]], scales)
    assert exceeded(dead, LOSSY) != []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_right(value: float) -> None:
    b = RNG.standard_normal((8, 3)).astype(np.float32)
    bad = b.copy()
    bad[2, 1] = value
    found = compare([bad], [b])
    assert (found["finite"], found["component_error"]) == (False, None)
    assert exceeded(found, {}) == ["the outputs are not finite"]
    with pytest.raises(RunnerError, match="recorded outputs are not finite"):
        compare([b], [bad])
    with pytest.raises(RunnerError, match="recorded outputs are not finite"):
        compare([bad], [bad])


def test_whoever_reads_a_self_check_knows_all_its_figures() -> None:
    b = RNG.standard_normal((8, 3)).astype(np.float32)
    assert set(compare([b], [b])) <= set(Check.model_fields)


def test_a_figure_that_is_no_number_keeps_no_bound() -> None:
    metrics = {"finite": True, "constant": 0, "component_error": float("nan"), "correlation": float("nan")}
    assert len(exceeded(metrics, {"component_error": 0.3, "correlation": 0.9})) == 2


def entries(samples: int = 12, k: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N, 4, k] and the scores [N, k] that they are ordered by; the third and fourth are nearly equal."""
    scores = -np.sort(-RNG.random((samples, k)), axis=1)
    scores[:, 3] = scores[:, 2] - 1e-7
    return (100 * RNG.standard_normal((samples, 4, k))).astype(np.float32), scores.astype(np.float32)


SETS = [{"axes": [[0, 2], [1, 1]]}]


def test_entries_of_equal_score_may_change_places() -> None:
    boxes, scores = entries()
    swapped = boxes[:, :, [0, 1, 3, 2, 4, 5, 6, 7]]
    assert exceeded(compare([swapped, scores], [boxes, scores]), EXACT) != []
    assert exceeded(compare([swapped, scores], [boxes, scores], None, SETS), EXACT) == []
    table = np.concatenate([boxes, scores[:, None]], 1).transpose(0, 2, 1)  # [N, k, 4 + 1], as YOLO's
    turned = table[:, [0, 1, 3, 2, 4, 5, 6, 7]]
    turned[:, :, 4] = table[:, :, 4]
    assert exceeded(compare([turned], [table], None, [{"axes": [[0, 1]]}]), EXACT) == []


def test_a_set_must_have_the_same_entries_in_the_order_of_their_scores() -> None:
    boxes, scores = entries()
    moved = boxes.copy()
    moved[:, 0, 5] += 30
    assert exceeded(compare([moved, scores], [boxes, scores], None, SETS), EXACT) != []
    backwards = [boxes[:, :, ::-1], scores[:, ::-1]]  # the worst first
    assert exceeded(compare(backwards, [boxes, scores], None, SETS), LOSSY) != []
    twice = boxes.copy()
    twice[:, :, 1] = twice[:, :, 0]  # one is there twice, another is not
    assert exceeded(compare([twice, scores], [boxes, scores], None, SETS), LOSSY) != []


def test_a_set_whose_boxes_belong_to_other_scores_is_wrong() -> None:
    boxes, scores = entries()
    other = RNG.permutation(8)
    assert exceeded(compare([boxes[:, :, other], scores], [boxes, scores], None, SETS), LOSSY) != []
    table = np.concatenate([boxes, scores[:, None]], 1).transpose(0, 2, 1)
    mixed = table[:, other]
    mixed[:, :, 4] = table[:, :, 4]
    assert exceeded(compare([mixed], [table], None, [{"axes": [[0, 1]]}]), LOSSY) != []


@pytest.mark.parametrize(
    ("shape", "place"),
    [
        ((64, 3, 85, 4, 4), (slice(None), slice(None), 10)),  # anchors, fields, a map
        ((64, 20, 8, 4), (slice(None), slice(None), 2)),  # boxes of each class
        ((64, 2, 3, 6, 5, 4), (slice(None), slice(None), slice(None), 5)),
    ],
)
def test_fields_are_found_between_other_dimensions(shape: tuple[int, ...], place: tuple[object, ...]) -> None:
    b = RNG.standard_normal(shape).astype(np.float32)
    b[:, :, :1] *= 50  # beside which what is lost is nothing
    a = b.copy()
    a[place] = a[place].mean()
    assert exceeded(compare([b], [b]), {**EXACT, **LOSSY}) == []
    found = compare([a], [b])
    assert found["constant"] >= 1
    assert exceeded(found, LOSSY) != []


@pytest.mark.parametrize(("large", "small"), [(1.0, 1e-8), (1e6, 1.0), (1e7, 1e-3)])
def test_a_small_component_is_judged_by_its_own_steps_in_float32_files(large: float, small: float) -> None:
    b = (RNG.standard_normal((64, 2)) * [large, small]).astype(np.float32)
    assert exceeded(compare([b * np.float32(1 + 1e-7)], [b]), EXACT) == []
    for wrong in (b[:, 1] * 1.9, b[:, 1] + np.float32(small), b[::-1, 1]):
        a = b.copy()
        a[:, 1] = wrong
        assert exceeded(compare([a], [b]), {**EXACT, "relative_error": 1e-3}) != []


def test_a_sum_that_begins_with_its_bias_is_no_fault() -> None:
    b = (300 + 1e-3 * RNG.standard_normal((64, 3))).astype(np.float32)
    scales = scales_of([b], [(b[:8], b[:8].astype(np.float64), b[:8] * (1 + 1e-7))])
    assert exceeded(compare([b + np.float32(4 * 2.0**-15)], [b], scales), EXACT) == []  # four steps at 300
    assert exceeded(compare([b + np.float32(0.01)], [b], scales), EXACT) != []


def test_a_class_that_a_map_loses_is_seen() -> None:
    b = np.where(RNG.random((16, 32, 32)) < 0.02, RNG.integers(1, 5, (16, 32, 32)), 0)
    a = np.where(b == 3, 0, b)
    found = compare([a], [b])
    assert found["component_error"] < 0.3
    assert found["lost"] == 1
    assert exceeded(found, LOSSY) != []
    assert compare([b], [b])["lost"] == 0


def test_one_class_for_another_at_a_border_is_no_relative_error() -> None:
    b = np.zeros((16, 64, 64), dtype=np.int64)
    b[:, 20:, :30] = 1
    a = b.copy()
    a[3, 20, 29] = 0
    found = compare([a], [b], scales_of([b]))
    assert (found["relative_error"], found["max_abs_error"]) == (0, 1)
    assert exceeded(found, {**EXACT, "relative_error": 1e-3}) == []


def test_an_output_without_numbers_is_right() -> None:
    b = RNG.standard_normal((8, 3)).astype(np.float32)
    nothing = np.zeros((8, 0, 4), dtype=np.float32)
    assert exceeded(compare([nothing, b], [nothing, b]), {**EXACT, **LOSSY}) == []
    found = compare([nothing], [nothing])
    assert (found["worst"], found["components"]) == (None, 0)


@pytest.mark.parametrize("array", ["scale_0_1", "allowed_0_1"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0, "short", "missing"])
def test_what_differences_are_judged_by_must_be_numbers_above_zero(array: str, value: float | str) -> None:
    b = RNG.standard_normal((8, 3)).astype(np.float32)
    scales = scales_of([b])
    if value == "missing":
        del scales[array]
    else:
        scales[array] = scales[array][:1] if value == "short" else np.full_like(scales[array], float(value))
    with pytest.raises(RunnerError, match="what output 0 is judged by along axis 1"):
        compare([b], [b], scales)


@pytest.mark.parametrize("kind", ["map", "mask", "one-hot"])
def test_classes_in_floating_point_are_no_sizes(kind: str) -> None:
    classes = np.kron(RNG.integers(0, 9, (16, 1, 8, 8)), np.ones((1, 1, 8, 8)))
    b = {"map": classes, "mask": classes > 4, "one-hot": classes == np.arange(9)[None, :, None, None]}[kind]
    b = b.astype(np.float32)
    a = b.copy()
    a[2, 0, 8, 8] = 1 - a[2, 0, 8, 8]  # one pixel at a border
    scales = scales_of([b])
    assert exceeded(compare([a + np.float32(1e-7)], [b], scales), {**EXACT, "relative_error": 1e-3}) == []
    part = compare([a[:4]], [b[:4]], scales)  # by what all of them are
    assert (part["relative_error"], part["components"]) == (0, 1)
    for wrong in (np.zeros_like(b), b[::-1].copy(), b + np.float32(0.3)):
        assert exceeded(compare([wrong], [b], scales), LOSSY) != []


def test_whole_numbers_that_are_sizes_are_judged_as_such() -> None:
    b = RNG.integers(0, 256, (16, 3, 20, 20)).astype(np.float32)  # pixels
    assert exceeded(compare([b + np.float32(0.4)], [b]), LOSSY) == []
    assert compare([b], [b])["components"] == 43
    nothing = np.zeros((16, 4), dtype=np.float32)  # of a ReLU that is never on
    assert compare([nothing + np.float32(1e-9)], [nothing])["components"] == 4


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_])
def test_one_mask_of_many_that_is_empty_is_seen(kind: type) -> None:
    share = np.full((1, 20, 1, 1), 0.5)
    share[0, 7] = 0.02  # which is little of all
    b = (RNG.random((16, 20, 16, 16)) < share).astype(kind)
    a = b.copy()
    a[:, 7] = 0
    assert compare([b], [b])["lost"] == 0
    found = compare([a], [b])
    assert found["component_error"] < 0.01
    assert (found["lost"], found["components"]) == (1, 1)
    assert exceeded(found, LOSSY) != []


def test_a_component_that_is_off_by_its_whole_spread_fails_whatever_was_asked() -> None:
    """As bounds of older bundles allowed: a cosine of 0.99999 beside boxes of 640 pixels."""
    b = np.concatenate([640 * RNG.random((32, 4)), RNG.random((32, 1))], 1).astype(np.float32)
    for by, fine in ((0.1, True), (0.5, False)):
        a = b.copy()
        a[:, 4] += by
        found = exceeded(compare([a], [b]), {"cosine": 0.95})
        assert (found == []) == fine
        assert fine or "output_0[:, 4] is off by" in found[0]


def anchors(samples: int = 64, count: int = 100) -> np.ndarray:
    """[N, anchors, 5]: boxes and scores, all of about the same spread; the last anchor hardly varies."""
    b = RNG.standard_normal((samples, count, 5))
    b[:, -1] *= 1e-3
    return b.astype(np.float32)


def test_an_anchor_that_hardly_varies_decides_nothing() -> None:
    b = anchors()
    steps = np.round(b / 0.05) * 0.05  # as int8 has them
    found = compare([steps.astype(np.float32)], [b])
    assert exceeded(found, LOSSY) == []
    assert found["varying"] == 99 + 5
    assert found["correlation"] > 0.99
    b[:, -1] *= 200  # it varies by a fifth of the others
    assert compare([b], [b])["varying"] == 100 + 5


@pytest.mark.parametrize("wrong", ["constant", "noise", "another", "off"])
def test_an_anchor_that_varies_is_judged_by_its_own_spread(wrong: str) -> None:
    b = anchors()
    a = b.copy()
    a[:, 7] = {"constant": 0 * b[:, 7], "noise": b[::-1, 7], "another": b[:, 8], "off": b[:, 7] + 1}[wrong]
    assert exceeded(compare([a], [b]), LOSSY) != []


def test_an_anchor_that_hardly_varies_may_not_be_anything() -> None:
    b = anchors()
    a = b.copy()
    a[:, -1] += 0.1
    assert exceeded(compare([a], [b]), LOSSY) != []


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
@pytest.mark.parametrize("classes", [1, 80])
def test_scores_beside_boxes_of_many_anchors_are_no_places(order: tuple[int, ...], classes: int) -> None:
    boxes = 100 * RNG.standard_normal((16, 100, 4))
    scores = 0.01 * RNG.standard_normal((16, 100, classes))
    b = np.concatenate([boxes, scores], 2).transpose(order).astype(np.float32)
    for dead in (4, -1):
        a = b.copy()
        np.moveaxis(a, order.index(2), 0)[dead] = 0
        assert exceeded(compare([a], [b]), LOSSY) != []


def test_channels_of_maps_are_no_places() -> None:
    b = RNG.standard_normal((16, 80, 9, 8)).astype(np.float32)
    b[:, 3] *= 1e-3
    a = b.copy()
    a[:, 3] = 0
    assert exceeded(compare([a], [b]), LOSSY) != []
