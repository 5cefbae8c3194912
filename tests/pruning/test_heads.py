"""Narrower heads on real programs: the bound of the products, the law of the shipped network, the task file."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_networks import BOTH, NONE, VALUES, network
from torch import Tensor, fx, nn
from typed import run

import edgespa as es
from edgespa.adaptation.original import Original
from edgespa.data import Prepared
from edgespa.errors import ConfigError, TaskFileError
from edgespa.graph.groups import find_groups
from edgespa.graph.heads import find_attentions
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.objectives.match import Match
from edgespa.pruning import PruneConfig, prune
from edgespa.pruning.heads import Heads, Narrowing, narrow_heads, size_of
from edgespa.pruning.images import Images
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

ALL = {**BOTH, **VALUES}


@functools.cache
def base_of(make: Callable[[], nn.Module]) -> Base:
    """Not to be changed."""
    program = trace(network(make), (torch.randn(2, 3, 16, 16),))
    return Base("networks:make", None, (1, 3, 16, 16), "digest", program, find_groups(program))


def narrower_by(base: Base, noise: Prepared, asked: float) -> Narrowing:
    """All heads that can be are narrower."""
    images = Images(base, noise)
    heads = Heads.of(base, images)
    return narrow_heads(base, images, heads, heads.sizes(asked, 1))


def images_of(noise: Prepared) -> Tensor:
    images: Tensor = next(noise.batches(32))[0]
    return images


class _Seen(fx.Interpreter):
    """What attention was given and gave."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.wanted = {each.node: each for each in find_attentions(program)}
        self.found: dict[str, list[Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.wanted:
            given = self.fetch_args_kwargs_from_env(n)[0]
            self.found[n.name] = [*given[:3], result]
        return result


def logits(program: Program, images: Tensor) -> Tensor:
    """Of the first attention, every query with every key of all tokens, head by head."""
    seen = _Seen(program)
    with torch.no_grad():
        seen.run(images)
    query, key = next(iter(seen.found.values()))[:2]
    heads = query.shape[1]
    key = key.repeat_interleave(heads // key.shape[1], 1)
    one, other = (each.double().transpose(0, 1).flatten(1, 2) for each in (query, key))
    return one @ other.mT


@pytest.mark.law(4)
@pytest.mark.parametrize("name", [name for name in BOTH if "torch" not in name and "written" not in name])
@pytest.mark.parametrize("size", [2, 4, 6])
def test_the_products_keep_their_bound(noise: Prepared, name: str, size: int) -> None:
    """The error of the first layer's logits over all pairs of tokens is that of the singular values left out."""
    base = base_of(BOTH[name])
    heads = Heads.of(base, Images(base, noise))
    first = heads.attentions[0].node
    width = next(each for each in heads.widths if (first, "query-key") in each.products)
    narrow = narrower_by(base, noise, float(size)).base
    before, after = (logits(each.program, images_of(noise)) for each in (base, narrow))
    found = float((before - after).norm() / before.norm())
    assert found == pytest.approx(float(heads.product_errors(width)["query-key"][size]), rel=1e-3, abs=1e-5)


@pytest.mark.law(3)
@pytest.mark.parametrize("name", ALL)
def test_the_network_is_that_of_the_factored_weights(noise: Prepared, name: str) -> None:
    """At full width the new weights compute what the old ones did; narrower, they are the first dimensions of those."""
    base, images = base_of(ALL[name]), images_of(noise)
    heads = Heads.of(base, Images(base, noise))
    whole = heads.program.with_state(heads.state({width.group: width.size for width in heads.widths}))
    torch.testing.assert_close(whole(images), base.program(images), rtol=1e-4, atol=1e-4)
    errors = [(base.program(images) - narrower_by(base, noise, size).base.program(images)).norm()
              for size in (0.25, 0.5, 0.75)]  # fmt: skip
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.law(1)
@pytest.mark.parametrize("name", ["fused", "apart", "shared keys", "torch"])
def test_it_is_nearer_than_leaving_dimensions_out(noise: Prepared, name: str) -> None:
    base, images = base_of(BOTH[name]), images_of(noise)
    for share in (0.75, 0.5, 0.25):
        made = narrower_by(base, noise, share)
        cut = base.narrowed(made.base.widths)
        errors = [float((each.program(images) - base.program(images)).norm()) for each in (made.base, cut)]
        assert errors[0] < 0.7 * errors[1]
        assert made.base.cost.cost().macs < base.cost.cost().macs == made.base.whole_cost.macs
        assert made.proof < 1e-5


def test_errors_of_every_width_at_once(noise: Prepared) -> None:
    base = base_of(BOTH["fused"])
    heads = Heads.of(base, Images(base, noise))
    for width in heads.widths:
        errors = heads.errors(width)
        assert len(errors) == width.size + 1
        assert errors.tolist() == sorted(errors.tolist(), reverse=True)
        assert float(errors[0]) == pytest.approx(1)
        assert float(errors[-1]) == 0


def test_sizes_by_hand() -> None:
    assert [size_of(asked, 64, 8) for asked in (0.5, 0.3, 0.01, 1.0, 20.0, 99.0)] == [32, 16, 8, 64, 20, 64]
    assert [size_of(asked, 8, 8) for asked in (0.5, 0.3, 0.01)] == [4, 2, 2]
    assert size_of(0.5, 3, 8) == 2


def test_what_cannot_be_is_refused_in_words(noise: Prepared) -> None:
    base = base_of(NONE["fused, normed"])
    with pytest.raises(ConfigError, match="a norm between its weight and attention"):
        narrower_by(base, noise, 0.5)
    base = base_of(lambda: nn.Linear(24, 24))
    with pytest.raises(ConfigError, match="no attention was found"):
        narrower_by(base, noise, 0.5)
    base = base_of(BOTH["fused"])
    with pytest.raises(ConfigError, match="not wider"):
        narrower_by(base, noise, 8.0)
    with pytest.raises(ConfigError, match="needs images"):
        prune(base, PruneConfig(density=1.0, head_width=4), Path())
    with pytest.raises(ValueError, match=r"2\.5 wide"):
        PruneConfig(density=1.0, head_width=2.5)


NET = """
import sys
sys.path.insert(0, {folder!r})
from attention_networks import BOTH, network

def build():
    return network(BOTH["{name}"])
"""


SETTINGS: dict[str, Any] = {"input_shape": (1, 3, 16, 16), "mean": (0.5,) * 3, "std": (0.3,) * 3, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks and data. Nothing is written into it."""
    made = tmp_path_factory.mktemp("place")
    zoo = str(Path(__file__).resolve().parents[1] / "zoo")
    for name in ("fused", "apart"):
        (made / f"{name}.py").write_text(NET.format(folder=zoo, name=name))
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (48, 16, 16, 3)).astype(np.uint8)
    np.savez(made / "noise.npz", images=images)
    np.savez(made / "classes.npz", images=images, labels=np.arange(48) % 5)
    return made


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def narrower(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file of heads half as wide."""
    path = tmp_path_factory.mktemp("narrower") / "cut.spa"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        es.prune("apart.py:build", output=path, calibration="noise.npz", head_width=4, **SETTINGS)
    return path


@pytest.mark.law(2)
@pytest.mark.parametrize("name", ["fused", "apart"])
@pytest.mark.parametrize("density", [None, 0.6])
def test_a_task_file_replays_bit_for_bit(place: Path, tmp_path: Path, name: str, density: float | None) -> None:
    path = tmp_path / "cut.spa"
    made = es.prune(
        f"{name}.py:build", output=path, calibration="noise.npz", head_width=0.5, density=density, **SETTINGS
    )
    task = Task.load(path)
    one, other = (made.task.program(made.task.open_base(place)), task.program(task.open_base(place)))
    assert all(torch.equal(tensor, other.state()[key]) for key, tensor in one.state().items())
    inputs = one.example_inputs()
    assert torch.equal(one(*inputs), other(*inputs))
    assert all(each.value_width == each.width == 4 for each in find_attentions(one))
    assert made.macs < made.base_macs
    assert made.metrics["masked_compacted_error"] < 1e-5
    heads: Any = task.header.provenance["heads"]
    assert heads["layers.0"]["query-key"]["width"] == 4
    assert 0 < heads["layers.0"]["query-key"]["error"] < 1
    assert (density is None) == all(mask.all() for mask in task.kept.values())


def test_a_narrower_task_is_exported_and_trained_further(place: Path, narrower: Path, tmp_path: Path) -> None:
    bundle = es.export(narrower, output=tmp_path / "bundle", formats=["onnx"], precisions=["fp32"], progress=False)
    assert [each.name for each in bundle.manifest.variants] == ["onnx-fp32"]
    es.export("apart.py:build", output=tmp_path / "plain", formats=["onnx"], precisions=["fp32"], **SETTINGS)
    sizes = [(tmp_path / each / "model.onnx").stat().st_size for each in ("bundle", "plain")]
    assert sizes[0] < sizes[1]
    tuned = es.adapt(
        start=narrower, data="classes.npz", output=tmp_path / "tuned.spa", epochs=1, batch_size=8, rank=2, density=0.7,
        progress=False,
    )  # fmt: skip
    program = tuned.task.program(tuned.task.open_base(place))
    assert all(each.width == each.value_width == 4 for each in find_attentions(program))
    assert bool(torch.isfinite(program(*program.example_inputs())).all())


def test_a_task_with_heads_as_they_were_says_nothing_of_widths(place: Path, narrower: Path, tmp_path: Path) -> None:
    es.prune("apart.py:build", output=tmp_path / "plain.spa", density=0.6, **SETTINGS)
    assert [b"widths" in path.read_bytes() for path in (tmp_path / "plain.spa", narrower)] == [False, True]


def test_widths_of_another_base_are_refused(place: Path, narrower: Path) -> None:
    task = Task.load(narrower)
    for widths in ({"nothing": 4}, {name: 0 for name in task.header.widths}):
        odd = dataclasses.replace(task, header=task.header.model_copy(update={"widths": widths}))
        with pytest.raises(TaskFileError, match="no heads of attention as the task has them"):
            odd.open_base(place)
    wide = dataclasses.replace(task, header=task.header.model_copy(update={"widths": {}}))
    with pytest.raises(TaskFileError):
        wide.program(wide.open_base(place))


def test_the_command_line_shows_what_was_done(place: Path, tmp_path: Path) -> None:
    words = ("prune", "fused.py:build", "--input-shape", "1,3,16,16", "--calibration", "noise.npz", "--head-width")
    result = run(*words, "0.5", "--mean", "0.5", "--std", "0.3", "--output", str(tmp_path / "cut.spa"))
    assert "products of heads that are narrower" in result.stdout
    assert "4 of 8" in result.stdout
    result = run(*words, "0.5", "--budget", "latency_ms=3", "--output", str(tmp_path / "new.spa"), code=1)
    assert "head_width is not for latency_ms" in result.stderr


def test_heads_that_are_as_wide_as_they_were_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from edgespa.cli.prune import _show_heads

    own = {"query-key": {"width": 4, "of": 8, "error": 0.1}, "value-output": {"width": 8, "of": 8, "error": 0.0}}
    _show_heads({"attention": own})
    shown = capsys.readouterr().out
    assert "largest of 1 products" in shown
    assert "value-output" not in shown


@pytest.mark.parametrize("at_once", [True, False])
def test_narrower_heads_are_healed_towards_those_that_were_there(
    place: Path, narrower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    drawn_to: list[Program] = []
    real = Original.objective

    def objective(self: Original, base: Base, kept: Any) -> Match:
        drawn_to.append(self.program)
        return real(self, base, kept)

    monkeypatch.setattr(Original, "objective", objective)
    healed = tmp_path / "healed.spa"
    if at_once:
        how: dict[str, Any] = {"calibration": "noise.npz", "head_width": 4, "heal": True, "heal_steps": 5}
        made = es.prune("apart.py:build", output=healed, **how, **SETTINGS)
    else:
        made = es.heal(narrower, calibration="noise.npz", steps=5, output=healed, progress=False)
    assert [{each.width for each in find_attentions(program)} for program in drawn_to] == [{8}]
    program = made.task.program(made.task.open_base(place))
    assert {each.width for each in find_attentions(program)} == {4}
    assert made.metrics["validation_error"] > 0
    assert "heads of 4 dimensions: layers.0.q, layers.0.v" in run("inspect", str(made.path)).stdout
