"""What every objective has to keep: batches add up to one, whatever they are cut into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree

from edgespa.data.answers import IGNORED
from edgespa.data.points import Points
from edgespa.errors import ConfigError
from edgespa.objectives.base import Objective
from edgespa.objectives.heatmaps import maps_of
from edgespa.objectives.image import MOST_DB
from edgespa.objectives.kinds import OWN, objective_named
from edgespa.objectives.match import Match
from edgespa.objectives.measures import Measure

RANDOM = torch.Generator().manual_seed(3)
BEST = {"psnr": MOST_DB}
CUTS = ([16], [8, 8], [1, 15], [5, 4, 7])


def masks() -> Tensor:
    found = torch.randint(0, 4, (16, 6, 5), generator=RANDOM)
    found[torch.rand(found.shape, generator=RANDOM) < 0.3] = IGNORED
    found[2] = IGNORED  # a picture of which nothing is known
    return found


def key_points() -> Points:
    """In the middles of pixels of maps that are half as large."""
    columns, rows, seen = (torch.randint(0, most, (16, 4), generator=RANDOM) for most in (5, 6, 3))
    places = torch.stack([2 * columns + 1, 2 * rows + 1, seen], -1).float()
    places[3, :, 2] = 0  # a thing of which nothing is known
    return Points(places, torch.tensor([[12.0, 10.0]]).repeat(16, 1))


def pictures() -> Tensor:
    found = torch.rand(16, 4, 12, 13, generator=RANDOM)
    found[4, :, 2:5] = found[2] = torch.nan  # of which nothing is known
    return found


MADE: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
    "classes": (lambda: torch.randn(16, 4, generator=RANDOM), lambda: torch.randint(0, 4, (16,), generator=RANDOM)),
    "multi-label": (
        lambda: torch.randn(16, 4, generator=RANDOM),
        lambda: (torch.rand(16, 4, generator=RANDOM) > 0.5).float(),
    ),
    "regression": (lambda: torch.randn(16, 4, generator=RANDOM), lambda: torch.randn(16, 4, generator=RANDOM)),
    "segmentation": (lambda: torch.randn(16, 4, 3, 5, generator=RANDOM), masks),
    "heatmaps": (lambda: torch.randn(16, 4, 6, 5, generator=RANDOM), key_points),
    "image": (lambda: torch.rand(16, 4, 12, 13, generator=RANDOM), pictures),
    "embedding": (lambda: torch.randn(16, 4, generator=RANDOM), lambda: torch.randn(16, 4, generator=RANDOM)),
    "match": (lambda: several(1), lambda: Match().wanted(several(1), Match().of_some(several(3)))),
}


ELSEWHERE = {"detection"}  # tests/zoo/test_detection.py


def test_all_are_tried() -> None:
    assert set(OWN) == set(MADE) | ELSEWHERE


def several(scale: float) -> list[Tensor]:
    """A list of scores, and a map in other units."""
    return [
        scale * torch.randn(16, 4, generator=RANDOM), 50 * scale * torch.randn(16, 2, 3, 5, generator=RANDOM) + 20
    ]  # fmt: skip


def parts(values: Any, sizes: list[int]) -> list[Any]:
    """Batches of samples; what is no row of theirs is the same in all."""
    leaves, tree = _pytree.tree_flatten(values)
    cut = [each.split(sizes) if each.dim() else [each] * len(sizes) for each in leaves]
    return [_pytree.tree_unflatten(list(each), tree) for each in zip(*cut, strict=True)]


def table_of(targets: Any) -> Tensor | None:
    return targets if isinstance(targets, Tensor) and targets.dim() < 3 else None


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("sizes", CUTS, ids=str)
def test_losses_of_batches_are_one_by_mass(name: str, weighed: bool, sizes: list[int]) -> None:
    objective = objective_named(name)
    if weighed and not objective.weighs:
        pytest.skip("it has no classes")
    weights = torch.tensor([0.5, 3.0, 1.0, 7.0]) if weighed else None
    outputs, targets = (make() for make in MADE[name])
    whole = objective.loss(outputs, targets, weights)
    losses = [
        (float(objective.loss(out, right, weights)), objective.mass(right, weights))
        for out, right in zip(parts(outputs, sizes), parts(targets, sizes), strict=True)
    ]
    mass = objective.mass(targets, weights)
    assert sum(each for _, each in losses) == pytest.approx(mass)
    assert sum(loss * each for loss, each in losses) / mass == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("sizes", CUTS, ids=str)
def test_sums_add(name: str, sizes: list[int]) -> None:
    objective = objective_named(name)
    outputs, targets = (make() for make in MADE[name])
    whole = objective.sums(outputs, targets)
    apart = [objective.sums(*each) for each in zip(parts(outputs, sizes), parts(targets, sizes), strict=True)]
    assert {(each.shape, each.dtype) for each in apart} == {(whole.shape, torch.float64)}
    torch.testing.assert_close(torch.stack(apart).sum(0), whole, rtol=1e-12, atol=1e-12)
    values = objective.values(whole, table_of(targets))
    assert len(values) == len(objective.measures)
    assert all(
        value <= BEST.get(each.name, 1) for value, each in zip(values, objective.measures, strict=True) if each.rises
    )


@pytest.mark.parametrize("name", MADE)
def test_what_is_right_has_the_least_loss_and_the_best_measure(name: str) -> None:
    objective = objective_named(name)
    outputs, targets = (make() for make in MADE[name])
    right = answers_that_are_right(name, targets)
    assert float(objective.loss(right, targets)) < float(objective.loss(outputs, targets))
    table = table_of(targets)
    best = [BEST.get(each.name, float(each.rises)) for each in objective.measures]
    assert objective.values(objective.sums(right, targets), table) == pytest.approx(best)
    blind = objective.blind(objective.sums(right, targets), table)
    assert objective.of_base == (blind is None)
    assert objective.of_base or blind < best[0]  # type: ignore[operator]


def answers_that_are_right(name: str, targets: Any) -> Any:
    if name == "match":
        return targets["outputs"]
    if name in ("regression", "embedding"):
        return targets
    if name == "multi-label":
        return (targets - 0.5) * 20
    if name == "image":
        return targets.nan_to_num()
    if name == "heatmaps":
        return maps_of(targets, 6, 5)
    known = targets.where(targets != IGNORED, 0) if name == "segmentation" else targets
    return torch.nn.functional.one_hot(known, 4).movedim(-1, 1).float() * 20


@pytest.mark.parametrize("name", MADE)
def test_scores_have_gradients_where_the_loss_has_none(name: str) -> None:
    objective = objective_named(name)
    targets = MADE[name][1]()
    right = _pytree.tree_map(
        lambda each: each.detach().clone().requires_grad_(True), answers_that_are_right(name, targets)
    )
    leaves = _pytree.tree_leaves(right)
    for number in (objective.scored(right, targets), objective.relevance(right, targets)):
        gradients = torch.autograd.grad(number, leaves)
        assert all(bool(torch.isfinite(each).all()) for each in gradients)
        assert name in ("regression", "heatmaps", "image") or all(float(each.abs().max()) > 0 for each in gradients)


@pytest.mark.parametrize("name", [name for name in MADE if not OWN[name].of_base])
def test_a_teacher_that_says_the_same_is_at_no_distance(name: str) -> None:
    objective = objective_named(name)
    outputs = MADE[name][0]().requires_grad_(True)
    if name != "multi-label":  # whose cross-entropy is not zero
        assert float(objective.distance(outputs, outputs, 2.0).detach()) == pytest.approx(0, abs=1e-5)
    (gradient,) = torch.autograd.grad(objective.distance(outputs, outputs.detach(), 2.0), outputs)
    assert float(gradient.abs().max()) < 1e-6
    with pytest.raises(ConfigError, match="teacher's outputs"):
        objective.distance(outputs, outputs[:, :1].detach(), 2.0)


class _NoMeasures(Objective):
    name = "odd"
    measures = ()

    def loss(self, outputs: Any, targets: Any, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        raise NotImplementedError

    def sums(self, outputs: Any, targets: Any) -> Tensor:
        raise NotImplementedError

    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("spec", "text", "message"),
    [
        ("segmentaton", "", "no objective 'segmentaton'"),
        ("o.py:absent", "", "has no 'absent'"),
        ("o.py:make", "make = lambda: 3", "gives a int"),
        ("o.py:make", "def make(): raise ValueError('no')", "failed"),
    ],
)
def test_objectives_that_are_none(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, spec: str, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        objective_named(spec)


def test_an_objective_has_measures_and_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("made_here")
    monkeypatch.setitem(sys.modules, "made_here", module)
    module.make = _NoMeasures  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="has no measures"):
        objective_named("made_here:make")
    monkeypatch.setattr(_NoMeasures, "measures", (Measure("one", "one"),))
    monkeypatch.setattr(_NoMeasures, "name", "classes")
    with pytest.raises(ConfigError, match="is called 'classes'") as caught:
        objective_named("made_here:make")
    assert caught.value.hint == "that name is taken"
    with pytest.raises(ValueError, match="lower-case letters"):
        Measure("mAP_50", "mAP@50")
