"""The scores of a block and the rule that decides the depth, on points whose answers are known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgespa.errors import ConfigError, DataError
from edgespa.selection.depth import METRICS, embedding, kept_depth, require_separable, separation

Points = NDArray[np.float64]


def brute_silhouette(points: Points, labels: NDArray[np.int64]) -> float:
    values = []
    for i, own in enumerate(labels):
        distance = np.sqrt(((points - points[i]) ** 2).sum(1))
        same = (labels == own) & (np.arange(len(labels)) != i)
        if not same.any():
            values.append(0.0)
            continue
        a = distance[same].mean()
        b = min(distance[labels == other].mean() for other in set(labels) - {own})
        values.append((b - a) / max(a, b))
    return float(np.mean(values))


def brute_davies_bouldin(points: Points, labels: NDArray[np.int64]) -> float:
    classes = sorted(set(labels))
    centres = [points[labels == c].mean(0) for c in classes]
    spread = [np.sqrt(((points[labels == c] - m) ** 2).sum(1)).mean() for c, m in zip(classes, centres, strict=True)]
    worst = [
        max(
            (spread[i] + spread[j]) / np.sqrt(((centres[i] - centres[j]) ** 2).sum())
            for j in range(len(classes))
            if j != i
        )
        for i in range(len(classes))
    ]
    return float(np.mean(worst))


def brute_calinski_harabasz(points: Points, labels: NDArray[np.int64]) -> float:
    classes, n = sorted(set(labels)), len(labels)
    mean = points.mean(0)
    between = sum((labels == c).sum() * ((points[labels == c].mean(0) - mean) ** 2).sum() for c in classes)
    within = sum(((points[labels == c] - points[labels == c].mean(0)) ** 2).sum() for c in classes)
    return float(between / within * (n - len(classes)) / (len(classes) - 1))


@pytest.fixture
def blobs() -> tuple[Points, NDArray[np.int64]]:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    return random.normal(size=(60, 5)) + 1.5 * labels[:, None], labels.astype(np.int64)


def test_metrics_are_what_their_formulas_say(blobs: tuple[Points, NDArray[np.int64]]) -> None:
    points, labels = blobs
    assert separation(points, labels, METRICS["silhouette"]) == pytest.approx(brute_silhouette(points, labels))
    assert separation(points, labels, METRICS["calinski-harabasz"]) == pytest.approx(
        brute_calinski_harabasz(points, labels)
    )
    assert separation(points, labels, METRICS["davies-bouldin"]) == pytest.approx(
        1 / brute_davies_bouldin(points, labels)
    )


@pytest.mark.parametrize("name", list(METRICS))
def test_more_is_better(name: str) -> None:
    random = np.random.default_rng(1)
    labels = (np.arange(60) % 3).astype(np.int64)
    noise = random.normal(size=(60, 4))
    near, far = (noise + shift * np.eye(4)[labels] for shift in (1.0, 8.0))
    metric = METRICS[name]
    scores = [separation(embedding(x) if metric.embeds else x, labels, metric) for x in (near, far)]
    assert scores[0] < scores[1]


def test_embedding_is_scaled_and_repeatable(blobs: tuple[Points, NDArray[np.int64]]) -> None:
    points, _ = blobs
    one, other = embedding(points.astype(np.float32)), embedding(points.astype(np.float32))
    assert one.shape == (60, 2)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one.min(0), 0)
    np.testing.assert_allclose(one.max(0), 1)


def test_embedding_is_that_of_the_papers_code() -> None:
    from sklearn.manifold import TSNE

    points = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    expected = TSNE(n_components=2, init="pca", random_state=0).fit_transform(points)
    expected = (expected - expected.min(0)) / (expected.max(0) - expected.min(0))
    np.testing.assert_allclose(embedding(points), expected, rtol=1e-6)


@pytest.mark.parametrize("count", [8, 20, 31])
def test_embedding_of_few_images(count: int) -> None:
    assert np.isfinite(embedding(np.random.default_rng(0).normal(size=(count, 3)))).all()


def test_equal_features_are_not_apart() -> None:
    labels = (np.arange(20) % 2).astype(np.int64)
    assert not embedding(np.ones((20, 3))).any()
    for metric in METRICS.values():
        assert separation(np.ones((20, 3)), labels, metric) == 0


def test_one_feature_can_be_embedded() -> None:
    assert embedding(np.random.default_rng(0).normal(size=(40, 1))).shape == (40, 2)


@pytest.mark.parametrize(
    ("scores", "alpha", "kept"),
    [
        ([0.0, 0.1, 0.2, 0.5, 0.6], 0.3, 3),  # T = 0.18: the second is the first below it from the top
        ([0.0, 0.1, 0.2, 0.5, 0.6], 0.9, 5),  # T = 0.54: the fourth is below it
        ([0.5, 0.5, 0.5, 0.5], 0.3, 1),  # none is below it
        ([0.3, 0.1, 0.4, 0.5], 0.5, 3),  # T = 0.25: what is before the second is not looked at
        ([-0.1, 0.18, 0.6], 0.3, 2),  # 0.18 is not below 0.18
        ([0.9, 0.2, 0.6], 1.0, 3),
        ([0.9], 0.3, 1),
        ([-0.5, -0.2, 0.01], 0.1, 3),
    ],
)
def test_rule(scores: list[float], alpha: float, kept: int) -> None:
    assert kept_depth(scores, alpha) == kept


def test_a_smaller_alpha_never_keeps_more() -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        scores = [*random.uniform(-0.2, 0.8, 11), 0.7]
        depths = [kept_depth(scores, alpha / 10) for alpha in range(1, 11)]
        assert depths == sorted(depths)


@pytest.mark.parametrize("last", [0.0, -0.2, float("nan")])
def test_refuses_a_last_block_without_separation(last: float) -> None:
    with pytest.raises(ConfigError, match="not apart at the last block") as caught:
        kept_depth([0.1, last], 0.3)
    assert "--keep-depth" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("labels", "match"),
    [([0, 1, 0], "too few"), ([1] * 20, "one class"), (list(range(20)), "class of its own")],
)
def test_refuses_images_that_say_nothing(labels: list[int], match: str) -> None:
    with pytest.raises(DataError, match=match):
        require_separable(np.array(labels), "pets")
