"""How well the classes of a task are apart at each block of a network, and how many blocks that says to keep.

Han, Tang: Straightforward Layer-wise Pruning for More Efficient Visual Adaptation, 2024,
https://arxiv.org/abs/2407.14330, and the code that was published with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgespa.errors import ConfigError, DataError

PERPLEXITY = 30.0  # scikit-learn's default, which the paper's code takes
LEAST_IMAGES = 8

Features = NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class Metric:
    """How separation is measured; more is better.

    Attributes:
        name: On the command line.
        measure: From points and labels to a number.
        embeds: Whether the points are the 2-D embedding of the features, or the features themselves.
        text: What it is, in words.
    """

    name: str
    measure: Callable[[Features, NDArray[np.int64]], float]
    embeds: bool
    text: str


def silhouette(points: Features, labels: NDArray[np.int64]) -> float:
    """Mean silhouette coefficient, in [-1, 1]: ``(b - a) / max(a, b)`` of the distances within and to other classes.

    Args:
        points: ``[N, D]``.
        labels: Class of each, ``[N]``.
    """
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(points, labels))


def calinski_harabasz(points: Features, labels: NDArray[np.int64]) -> float:
    """Dispersion between classes over that within them, from 0 up.

    Args:
        points: ``[N, D]``.
        labels: Class of each, ``[N]``.
    """
    from sklearn.metrics import calinski_harabasz_score

    return float(calinski_harabasz_score(points, labels))


def inverse_davies_bouldin(points: Features, labels: NDArray[np.int64]) -> float:
    """One over the Davies-Bouldin index, from 0 up. The index itself is less where classes are further apart.

    Args:
        points: ``[N, D]``.
        labels: Class of each, ``[N]``.
    """
    from sklearn.metrics import davies_bouldin_score

    index = float(davies_bouldin_score(points, labels))
    return 1 / index if index > 0 else 0.0


DEFAULT_METRIC = "tsne-silhouette"
_ALL = (
    Metric(DEFAULT_METRIC, silhouette, True, "silhouette score of the t-SNE embedding"),
    Metric("silhouette", silhouette, False, "silhouette score of the features"),
    Metric("calinski-harabasz", calinski_harabasz, False, "Calinski-Harabasz score of the features"),
    Metric("davies-bouldin", inverse_davies_bouldin, False, "1 / Davies-Bouldin index of the features"),
)
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})


def embedding(features: Features, seed: int = 0) -> Features:
    """Features in two dimensions by t-SNE, each axis scaled to [0, 1].

    As in the paper's code: ``TSNE(n_components=2, init="pca", random_state=0)``. Deviation: with fewer than 91 images
    the perplexity is a third of their number, since scikit-learn refuses one that is not less than that number.

    Args:
        features: ``[N, D]``.
        seed: Of t-SNE.

    Returns:
        ``[N, 2]``; zeros where all features are the same.
    """
    from sklearn.manifold import TSNE

    count = len(features)
    if _is_constant(features):
        return np.zeros((count, 2), dtype=np.float32)
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    wide = features if features.shape[1] > 1 else np.repeat(features, 2, axis=1)  # PCA needs two columns
    points: Features = TSNE(n_components=2, init="pca", random_state=seed, perplexity=perplexity).fit_transform(wide)
    low, high = points.min(0), points.max(0)
    scaled: Features = (points - low) / np.where(high > low, high - low, 1)
    return scaled


def separation(points: Features, labels: NDArray[np.int64], metric: Metric) -> float:
    """How far the classes are apart; 0 where all points are the same.

    Args:
        points: The features ``[N, D]``, or their `embedding` for a metric that takes that.
        labels: Class of each, ``[N]``.
        metric: How it is measured.
    """
    return 0.0 if _is_constant(points) else metric.measure(points, labels)


def require_separable(labels: NDArray[np.int64], data: str) -> None:
    """Refuse images that no separation can be measured on.

    Args:
        labels: Class of each image, ``[N]``.
        data: Where they come from, for the message.

    Raises:
        DataError: With fewer than two classes, too few images, or no two images of one class.
    """
    classes = len(np.unique(labels))
    if len(labels) < LEAST_IMAGES:
        raise DataError(f"{data}: {len(labels)} images are too few to measure how far classes are apart", "give more")
    if classes < 2:
        raise DataError(f"{data}: all images are of one class", "give images of at least two classes")
    if classes == len(labels):
        raise DataError(f"{data}: every image has a class of its own", "give several images of each class")


def kept_depth(scores: Sequence[float], alpha: float) -> int:
    """How many blocks to keep, counted from the input.

    The threshold is ``T = alpha * SC_N`` with the score of the last block. From the last block down the first
    one with ``SC_i < T`` is looked for, and the blocks ``1..i + 1`` are kept; at least one, if no score is below T.

    Args:
        scores: Of every block, the first one first; more is better.
        alpha: In (0, 1]; less keeps fewer blocks.

    Raises:
        ConfigError: If the last block's score is not above 0, so that there is nothing to compare with.
    """
    last = scores[-1]
    if not last > 0:
        raise ConfigError(
            f"the classes are not apart at the last block: its score is {last:.3f}, and the rule needs one above 0",
            "train the task longer, score on more images (--score-images), try --metric calinski-harabasz, or say the "
            "depth yourself: --keep-depth N",
        )
    below = [number for number, score in enumerate(scores, 1) if score < alpha * last]
    return min(below[-1] + 1, len(scores)) if below else 1


def _is_constant(points: Features) -> bool:
    return bool((points == points[:1]).all())
