"""Scores that need no reconstruction, by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgespa.config import Preprocess
from edgespa.data import Prepared, load_data, prepare
from edgespa.pruning import PruneConfig
from edgespa.pruning.images import Images
from edgespa.pruning.rank import activation_gradients, by_rank, output_norms, scores_of, sensitivities
from edgespa.pruning.survey import Network
from edgespa.tasks.base import Base

Build = Callable[[str], Base]
PREPROCESS = Preprocess(height=8, width=8, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)


def quiet(text: str) -> None:
    """No one to tell."""


def test_norms_of_the_weights_that_read_a_unit(network: Build) -> None:
    base = network("flatten")
    state = base.program.state()
    whole = Network.of(base)
    by_hand = state["f2.weight"].abs().sum(0) / 4
    assert output_norms(whole, "f1") == pytest.approx(by_hand.double().numpy())
    # a channel of 4 x 4 places is read by 16 columns
    by_hand = state["f1.weight"].abs().sum(0).view(6, 16).sum(1) / 10
    assert output_norms(whole, "c1") == pytest.approx(by_hand.double().numpy())


def test_activations_times_gradients(network: Build, images: Prepared) -> None:
    base = network("flatten")
    state = base.program.state()
    x, labels = images.tensor(range(len(images))), images.labels
    places = torch.relu(torch.nn.functional.conv2d(x, state["c1.weight"], state["c1.bias"], padding=1))
    flat = torch.nn.functional.max_pool2d(places, 2).flatten(1).detach().requires_grad_(True)
    hidden = torch.relu(flat @ state["f1.weight"].T + state["f1.bias"])
    hidden.retain_grad()
    output = hidden @ state["f2.weight"].T + state["f2.bias"]
    torch.nn.functional.cross_entropy(output, labels, reduction="sum").backward()
    assert hidden.grad is not None
    assert flat.grad is not None
    found = activation_gradients(Network.of(base), Images(base, images), ["c1", "f1"], quiet)
    assert found["f1"] == pytest.approx((hidden * hidden.grad).abs().mean(0).detach().numpy(), rel=1e-4)
    per_channel = (flat * flat.grad).view(-1, 6, 16).sum(2).abs().mean(0)
    assert found["c1"] == pytest.approx(per_channel.detach().numpy(), rel=1e-4)


@pytest.mark.parametrize("kind", ["multi-label", "regression"])
def test_gradients_are_of_the_loss_of_the_data(network: Build, kind: str, tmp_path: Path) -> None:
    base = network("flatten")
    random = np.random.default_rng(0)
    numbers = random.normal(size=(24, 4)).astype(np.float32)
    targets = (numbers > 0).astype(np.int64) if kind == "multi-label" else numbers
    np.savez(tmp_path / "t.npz", images=random.integers(0, 256, (24, 8, 8, 3)).astype(np.uint8), targets=targets)
    data = prepare(load_data(str(tmp_path / "t.npz")), PREPROCESS)
    assert data.kind == kind
    inner: dict[str, torch.Tensor] = {}
    state, x = base.program.state(), data.tensor(range(24))
    hidden = torch.nn.functional.conv2d(x, state["c1.weight"], state["c1.bias"], padding=1).relu()
    hidden = torch.nn.functional.max_pool2d(hidden, 2).flatten(1) @ state["f1.weight"].T + state["f1.bias"]
    inner["f1"] = hidden.relu().detach().requires_grad_(True)
    output = inner["f1"] @ state["f2.weight"].T + state["f2.bias"]
    wanted = torch.from_numpy(targets).float()
    by_hand = torch.sigmoid(output) - wanted if kind == "multi-label" else 2 * (output - wanted)
    expected = (inner["f1"] * (by_hand @ state["f2.weight"])).abs().mean(0).detach().numpy()
    found = activation_gradients(Network.of(base), Images(base, data), ["f1"], quiet)
    assert found["f1"] == pytest.approx(expected, rel=1e-4)


def test_sensitivities_of_a_linear_layer(network: Build, images: Prepared, tmp_path: Path) -> None:
    base = network("matmul")
    state = base.program.state()
    x = images.tensor(range(len(images))).flatten(1)
    inputs = torch.relu(x @ state["w1"]).double()
    share = torch.zeros(10, dtype=torch.float64)
    for sign in (1, -1):
        weight = (sign * state["w2"].double()).clamp_min(0)
        parts = inputs[:, :, None] * weight
        sums = parts.sum(1, keepdim=True)
        share = torch.maximum(share, torch.where(sums > 1e-6, parts / sums.clamp_min(1e-12), 0.0).amax((0, 2)))
    found = sensitivities(Network.of(base), Images(base, images), ["w1"], quiet, 0)
    assert found["w1"].numpy() == pytest.approx(share.numpy(), rel=1e-5)


def test_orders_become_scores_that_spread_alike() -> None:
    assert by_rank([2, 0, 1]).tolist() == pytest.approx([2 / 3, 1 / 3, 1])
    assert by_rank([]).tolist() == []


def test_one_random_batch_or_all_in_turn(network: Build, images: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    base = network("plain")
    seen: list[int] = []

    def record(steps: list[object]) -> np.ndarray:
        seen.append(len(steps))
        return np.arange(8 if len(seen) % 2 else 12)

    monkeypatch.setattr("edgespa.pruning.rank.forward_selection", record)
    monkeypatch.setattr("edgespa.pruning.rank.MOST_IMAGES", 32)
    given = Images(base, images)
    given.batch_size, given.batches = 16, 8
    for method, batches in (("layer-greedy-fs", 1), ("layer-greedy-fs-fd", 4)):
        seen.clear()
        scores_of(Network.of(base), PruneConfig(density=0.5, method=method), given, quiet)
        assert seen == [batches, batches]
