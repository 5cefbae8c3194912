"""Who proposes: never the same twice, and after a kill, wherever it came, what would have been proposed without it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgespa.errors import MissingExtraError
from edgespa.trials.digests import digest_of
from edgespa.trials.sampling import JOURNAL, Grid, Study, importance, require_optuna
from edgespa.trials.space import Space

SPACE = Space.parse(
    {"density": "0.3..1:0.05", "rank": [2, 4, 8], "lr": "1e-4..1e-2:log", "adapter": "splora,full"},
    ("density", "rank", "lr", "adapter"),
)
GOALS = ("quality", "bytes")
KINDS = ("tpe", "nsga2", "random")


def of(recipe: Mapping[str, Any]) -> tuple[float, float] | None:
    if recipe["rank"] == 8 and recipe["density"] > 0.9:
        return None  # it failed
    return (recipe["density"] * (2 if recipe["adapter"] == "full" else 1) - recipe["lr"], recipe["density"])


def proposed(folder: Path, waves: int, kind: Any = "tpe", seed: int = 3, size: int = 4) -> list[dict[str, Any]]:
    study = Study(folder, SPACE, lambda each: each, kind, GOALS, 4, seed)
    found = []
    for _ in range(waves):
        wave = study.wave(size)
        found += [dict(each) for each in wave]
        study.tell([of(each) for each in wave])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_that_was_killed_goes_on_with_the_same(kind: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    wanted = proposed(whole, 4, kind)
    assert len({digest_of(each) for each in wanted}) == 16
    proposed(killed, 2, kind)
    content = (killed / JOURNAL).read_bytes()
    # In the middle of what was told, in the middle of a proposal, in the middle of the first line.
    for end in (len(content) - 30, *(len(content) * part // 7 for part in range(6, 0, -1)), 20):
        (killed / JOURNAL).write_bytes(content[:end])
        (killed / f"{JOURNAL}.lock").symlink_to("nowhere")
        assert proposed(killed, 4, kind) == wanted


def test_what_is_known_to_be_good_comes_first(tmp_path: Path) -> None:
    """And a killed study goes on with it, wherever it was killed."""
    good = [
        {"adapter": "splora", "density": density, "lr": 1e-3, "rank": 4} for density in (0.65, 0.3)
    ]  # fmt: skip

    def study(folder: Path) -> list[dict[str, Any]]:
        folder.mkdir(exist_ok=True)
        own = Study(folder, SPACE, lambda each: each, "tpe", GOALS, 4, 3, good)
        wave = own.wave(4)
        own.tell([of(each) for each in wave])
        return [dict(each) for each in (*wave, *own.wave(2))]

    wanted = study(tmp_path / "whole")
    assert wanted[:2] == good
    assert len({digest_of(each) for each in wanted}) == 6
    study(tmp_path / "killed")
    journal = tmp_path / "killed" / JOURNAL
    content = journal.read_bytes()
    for part in range(9, 0, -1):
        journal.write_bytes(content[: len(content) * part // 10])
        assert study(tmp_path / "killed") == wanted


def test_the_seed_decides(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert proposed(tmp_path / "one", 2, seed=0) != proposed(tmp_path / "two", 2, seed=1)


def test_a_study_learns(tmp_path: Path) -> None:
    found = proposed(tmp_path, 12)
    early, late = ([each["adapter"] for each in part].count("full") for part in (found[:16], found[-16:]))
    assert late > early


def test_what_was_there_is_not_proposed_again(tmp_path: Path) -> None:
    space = Space.parse({"rank": [2, 4, 8], "adapter": "splora,full"}, ("rank", "adapter"))

    def canonical(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: each for name, each in recipe.items() if name == "adapter" or recipe["adapter"] != "full"}

    study = Study(tmp_path, space, canonical, "random", GOALS, 4, 0)
    found = [*study.wave(3), *study.wave(9)]
    assert len(found) == len({digest_of(dict(each)) for each in found}) == 4  # three ranks, and one without
    assert study.wave(1) == []
    grid = Grid(space, canonical, 0)
    assert len(grid) == 4
    assert sorted(map(str, [*grid.wave(3), *grid.wave(3)])) == sorted(map(str, found))
    assert grid.wave(1) == []


def test_the_order_of_a_grid_is_of_the_seed() -> None:
    orders = [[dict(each) for each in Grid(_GRID, lambda each: each, seed).wave(30)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(map(str, orders[0])) == sorted(map(str, orders[2]))


_GRID = Space.parse({"rank": "1..5", "density": "0.3..0.8:0.1"}, ("rank", "density"))


def test_what_a_goal_hangs_on(tmp_path: Path) -> None:
    recipes = proposed(tmp_path, 8, "random")
    found = importance(SPACE, recipes, [each["density"] for each in recipes], rises=True)
    assert next(iter(found)) == "density"
    assert sum(found.values()) == pytest.approx(1, abs=0.01)
    assert importance(SPACE, recipes[:4], [1.0, 2.0, 3.0, 4.0]) == {}
    assert importance(SPACE, recipes, [1.0] * len(recipes)) == {}


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"optuna is not installed\n.*\[search\]"):
        require_optuna()
