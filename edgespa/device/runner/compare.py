"""How far outputs are from the program's: component by component, each against its own spread."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.places import axes_of, compared, parts_of, unsure
from edgespa.device.runner.sets import reordered

TOLERANCE = 1e-4  # of a float32 file: of the spread of a component
ROUNDING = 16  # times the program's own rounding are no fault of a file
DEVIATIONS = 12  # of what operators that are a little wrong make of the outputs; runtimes err in one direction, too
MOST = 0.05  # of the spread: rounding that is larger explains nothing any more
FLAT = 32  # times its rounding, or less, is no variation
SINGLE = 2.0**-23  # the step of float32 at 1
STEPS = 8  # of it at a component's size are no fault: runtimes add the terms of a sum to its bias
UNIT = 2.0**-22  # what runtimes' sigmoid, softmax and tanh, whose results are at most 1, may be wrong by
NEAR = 0.1  # of the spread: so much of `UNIT` is no fault, where the network's own rounding is not known
DEAD = 0.1  # of the program's spread, or less: the file gives a constant
FAR = 1.0  # of the spread: a component that is off by so much says nothing of the input
CLASSES = 64  # whole numbers in an output of floating point, or fewer: they are no sizes
OFTEN = 64  # times a whole number is there, or more: it is a class, and missed
PLACES = 64  # or more entries of an axis of [N, ..., ...], if no axis has more: anchors, ranks, pixels, not fields
FAINT = 0.1  # of the spread that half of the places have: one that varies less is judged by so much
LEAST_SAMPLES = 4  # for a correlation
TINY = 1e-300


def scales_of(
    references: list[np.ndarray],
    rounded: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, np.ndarray]:
    """What differences are judged by, for each component of each output.

    A component is an index along one of `axes_of`; an output of whole numbers has one. With b its values over N
    samples, ``spread = sqrt(mean over positions of var over samples)``: what does not depend on the input, as a grid of
    anchors, is no spread.

    Args:
        references: The program's outputs, the samples first.
        rounded: Of each output some samples, the same in double precision, and those once more with every operator as
            wrong as runtimes may be, if that is known. Without, the program's rounding is taken for a step of float32.
        tolerance: Of the spread.

    Returns:
        ``scale_I_A``: the spread of output I along axis A; where that is no more than `FLAT` times the program's own
        rounding, or what runtimes make of a sigmoid near 0, the largest magnitude or the largest spread of another
        component; 1 where all are 0. Of places, which hold the same quantities (anchors), at least `FAINT` of the
        spread that half of them have: an anchor that hardly varies decides nothing.
        ``allowed_I_A``: what a float32 file may be off by at most: `tolerance` of the spread, what rounding explains,
        or some steps of float32 at the component's largest magnitude, whichever is most.
        ``varies_I_A``: whether it does, a place by more than that.
    """
    found: dict[str, np.ndarray] = {}
    for i, reference in enumerate(references):
        own, once, rough = (reference, reference, None) if rounded is None else rounded[i]
        if names_classes(reference):
            varied = np.array([_changing(reference)])
            flips = float(_unlike(own, once).mean()) if own.size else 0.0
            found[f"scale_{i}_0"], found[f"varies_{i}_0"] = np.where(varied > 0, varied, 1.0), varied > 0
            found[f"allowed_{i}_0"] = np.array([max(10 * tolerance, min(ROUNDING * flips, MOST))])
            continue
        if not reference.size:
            continue
        places, doubt = compared(reference, reference), unsure(own, once, rough, reference.shape)
        for axis in axes_of(reference.shape):
            spread, size = np.sqrt(places.of("theirs", axis)), places.of("size", axis)
            rounding = SINGLE * size if rounded is None else _rounding(doubt.of("rounding", axis), size)
            noise = np.zeros(size.shape) if rough is None else np.sqrt(doubt.of("noise", axis))
            still = np.maximum(FLAT * rounding, SINGLE * size)
            varies = spread > np.maximum(still, FLAT * np.minimum(noise, UNIT * max(1.0, float(size.max()))))
            widest = float(spread[varies].max(initial=0.0))
            scale = np.where(varies, spread, np.maximum(size, widest))
            scale = np.where(scale > 0, scale, 1.0)
            if varies.any() and _holds_places(axis, reference.shape):
                floor = FAINT * float(np.median(spread[varies]))
                faint = varies & (spread < floor)
                scale, varies = np.where(faint, floor, scale), varies & ~faint
            found[f"scale_{i}_{axis}"] = scale
            found[f"varies_{i}_{axis}"] = varies
            explained = np.minimum(np.maximum(ROUNDING * rounding, DEVIATIONS * noise), MOST * scale)
            if rough is None:
                explained = np.maximum(explained, np.minimum(UNIT, NEAR * spread))
            step = np.where(size > 0, STEPS * SINGLE * size, UNIT)
            found[f"allowed_{i}_{axis}"] = np.maximum(np.maximum(tolerance * spread, explained), step)
    least = np.finfo(np.float32).tiny  # what is divided by is above zero in float32, too
    return {
        name: each.astype(bool) if name.startswith("varies") else np.maximum(each, least).astype(np.float32)
        for name, each in found.items()
    }


def _holds_places(axis: int, shape: tuple[int, ...]) -> bool:
    """Whether an axis of an output [N, ...] is of places: long, the longest, and not the channels of maps."""
    sizes = shape[1:]
    return len(sizes) > 1 and shape[axis] == max(sizes) >= PLACES and not (axis == 1 and len(sizes) > 2)


def _rounding(found: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Of a few numbers the largest may be small by luck: at least the share of the magnitude that half of all have."""
    share = float(np.median(found[size > 0] / size[size > 0])) if (size > 0).any() else 0.0
    result: np.ndarray = np.maximum(found, share * size)
    return result


def compare(
    outputs: list[np.ndarray],
    references: list[np.ndarray],
    scales: dict[str, np.ndarray] | None = None,
    sets: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """How far outputs a are from references b.

    Args:
        outputs: Of a file, the samples first.
        references: Of the program, on the same inputs.
        scales: From `scales_of`, of these or of more samples; None: of these.
        sets: Outputs whose entries have no order of their own, as the manifest lists them; see `reordered`.

    Returns:
        Of whole outputs, the worst of them: ``max_abs_error`` = max|a - b|; ``relative_error`` = max|a - b| / max|b|
        (max|a - b| where b is all zero), of outputs of fractions: one class of a map for another is not near or far;
        ``cosine`` of all numbers (1 where both are all zero, 0 where one is).

        Of components, the worst of them, see `scales_of`: ``component_error`` = rms(a - b) / scale (for whole numbers:
        the share that differs, against the share that changes with the input); ``correlation`` of a and b, each less
        its mean over samples at each position, of components that vary (None without, or with too few samples);
        ``tolerance_used`` = max|a - b| / allowed; ``worst`` and ``worst_used``, the names of the components where the
        first and the last are largest; ``components``, ``varying``: how many there are, and that depend on the input;
        ``constant``: how many of those are constant in the file; ``lost``: how many whole numbers that the program
        gives often, such as a class in a map, the file gives at hardly any of those places, and how many components of
        them, such as a mask, change in the program and hardly in the file.

        ``top1_agreement``: fraction of samples with the same argmax in the first output, None unless that is [N, K]
        with K > 1. In float64. ``finite`` tells whether all outputs are; where not, the figures are None.

    Raises:
        RunnerError: If a reference is not finite, or the shapes differ.
    """
    if not all(np.isfinite(b).all() for b in references):
        raise RunnerError("the recorded outputs are not finite: nothing can be compared with them")
    if not all(np.isfinite(a).all() for a in outputs):
        return {**dict.fromkeys(_FIGURES), "finite": False}
    for i, reference in enumerate(references):
        if outputs[i].shape != reference.shape:
            raise RunnerError(f"output {i} has shape {outputs[i].shape}, expected {reference.shape}")
    scales = scales_of(references) if scales is None else scales
    for each in sets or []:
        outputs = reordered(outputs, references, each["axes"])
    classes = {i for i, b in enumerate(references) if b.dtype.kind != "f" or (b.ndim > 1 and f"scale_{i}_0" in scales)}
    figures = {**_of_wholes(outputs, references, classes), **_of_components(outputs, references, scales, classes)}
    first, agreement = references[0], None
    if first.ndim == 2 and first.shape[1] > 1 and len(first):
        agreement = float((outputs[0].argmax(1) == first.argmax(1)).mean())
    return {**figures, "top1_agreement": agreement, "finite": True}


_FIGURES = (
    *("max_abs_error", "relative_error", "cosine", "component_error", "correlation", "tolerance_used", "worst"),
    *("worst_used", "components", "varying", "constant", "lost", "top1_agreement"),
)


def _of_wholes(outputs: list[np.ndarray], references: list[np.ndarray], classes: set[int]) -> dict[str, Any]:
    worst = {"max_abs_error": 0.0, "relative_error": 0.0, "cosine": 1.0}
    for i, (output, reference) in enumerate(zip(outputs, references)):
        error = top = product = ours = theirs = 0.0
        for at in parts_of(reference.shape) if reference.size else ():
            one, other = (each[:, at] if each.ndim > 1 else each for each in (output, reference))
            a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
            error, top = max(error, float(np.abs(a - b).max())), max(top, float(np.abs(b).max()))
            product, ours, theirs = product + float(a @ b), ours + float(a @ a), theirs + float(b @ b)
        norms = ours**0.5 * theirs**0.5
        cosine = product / norms if norms else float(ours == theirs)
        worst["max_abs_error"] = max(worst["max_abs_error"], error)
        worst["cosine"] = min(worst["cosine"], cosine, 1.0)
        if i not in classes:
            worst["relative_error"] = max(worst["relative_error"], error / top if top else error)
    return worst


def _of_components(
    outputs: list[np.ndarray], references: list[np.ndarray], scales: dict[str, np.ndarray], classes: set[int]
) -> dict[str, Any]:
    worst: dict[str, Any] = {"component_error": 0.0, "tolerance_used": 0.0, "correlation": None}
    worst.update(worst=None, worst_used=None)
    counts = {"components": 0, "varying": 0, "constant": 0, "lost": 0}
    for i, (a, b) in enumerate(zip(outputs, references)):
        real = i not in classes
        if not b.size:
            continue
        enough = len(b) >= LEAST_SAMPLES
        places = compared(a, b) if real else None
        for axis in axes_of(b.shape) if real else [0]:
            scale, allowed, varies = _scales(scales, i, axis, b.shape)
            if places is not None:
                ours, theirs, error = (np.sqrt(places.of(each, axis)) for each in ("ours", "theirs", "error"))
                error, used = error / scale, places.of("most", axis) / allowed
            else:
                ours, theirs = (np.array([_changing(each)]) for each in (a, b))
                differ = np.array([float(_unlike(a, b).mean())])
                counts["lost"] += _lost(a, b) + _stuck(a, b)
                error, used = differ / scale, differ / allowed
            for figure, name, found in (("component_error", "worst", error), ("tolerance_used", "worst_used", used)):
                if worst[name] is None or not found.max() <= worst[figure]:
                    worst[figure] = float(found.max())
                    worst[name] = _name(i, axis, int(found.argmax()), b.ndim)
            seen = varies & (theirs > 0)
            if enough and places is not None and seen.any():
                products = places.of("both", axis) / np.maximum(ours * theirs, TINY)
                least = float(np.clip(products[seen], -1.0, 1.0).min())
                worst["correlation"] = least if worst["correlation"] is None else min(worst["correlation"], least)
            counts["components"] += len(scale)
            counts["varying"] += int(varies.sum())
            counts["constant"] += int((seen & ~(ours > DEAD * theirs)).sum()) if enough else 0
    return {**worst, **counts}


def _scales(
    scales: dict[str, np.ndarray], output: int, axis: int, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale, allowed and varies of an output along an axis: what is no number bounds nothing.

    Raises:
        RunnerError: If they are not those of such an output.
    """
    found = [scales.get(f"{what}_{output}_{axis}") for what in ("scale", "allowed", "varies")]
    size = (shape[axis] if axis else 1,)
    scale, allowed, varies = (np.zeros(0) if each is None else each for each in found)
    if any(each.shape != size for each in (scale, allowed, varies)):
        raise RunnerError(
            f"what output {output} is judged by along axis {axis} is not there, or not of {size[0]} numbers"
        )
    if not all((np.isfinite(each) & (each > 0)).all() for each in (scale, allowed)):
        raise RunnerError(f"what output {output} is judged by along axis {axis} is not finite and above zero")
    return scale.astype(np.float64), allowed.astype(np.float64), varies.astype(bool)


def _changing(array: np.ndarray) -> float:
    """Of whole numbers, the share that differs from the first sample's at their position."""
    return float(_unlike(array, array[:1]).mean()) if len(array) else 0.0


def names_classes(array: np.ndarray) -> bool:
    """Whether an output [N, ...] is of whole numbers that are no sizes: integers, or few of them in floating point.

    As of a map of classes, a mask, one-hot rows: of two of them the one is not nearer than another.
    """
    if array.dtype.kind != "f":
        return True
    seen: set[float] = set()
    for one in array if array.ndim > 1 and array.size else ():
        if not np.array_equal(one, np.rint(one)):
            return False
        seen.update(np.unique(one).tolist())
        if len(seen) > CLASSES:
            return False
    return len(seen) > 1 and array.size >= OFTEN * len(seen)


def _unlike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where whole numbers differ; in floating point they need not be exact."""
    if a.dtype.kind != "f" and b.dtype.kind != "f":
        return np.asarray(a != b)
    near: np.ndarray = np.abs(a.astype(np.float64) - b) <= 0.01
    return ~near


def _lost(a: np.ndarray, b: np.ndarray) -> int:
    """How many of the numbers that are often in b are in a at hardly any of those places."""
    counts, kept = (
        dict(zip(*(each.tolist() for each in np.unique(found, return_counts=True)))) for found in (b, b[~_unlike(a, b)])
    )
    return sum(count >= OFTEN and not kept.get(value, 0) > DEAD * count for value, count in counts.items())


def _stuck(a: np.ndarray, b: np.ndarray) -> int:
    """How many components of whole numbers, along any axis, change often in b and hardly in a: a mask that is empty."""
    ours, theirs = (_unlike(each, each[:1]).sum(axis=0) for each in (a, b))
    found = 0
    for axis in range(theirs.ndim):
        others = tuple(each for each in range(theirs.ndim) if each != axis)
        changes = theirs.sum(axis=others)
        found += int(((changes >= OFTEN) & (ours.sum(axis=others) <= DEAD * changes)).sum())
    return found


def _name(output: int, axis: int, index: int, ndim: int) -> str:
    """A component in numpy's words: ``output_0[:, 4]``."""
    place = ", ".join([":"] * axis + [str(index)] + [":"] * (ndim - axis - 1))
    return f"output_{output}[{place}]" if axis else f"output_{output}"


def exceeded(metrics: dict[str, Any], bound: dict[str, float]) -> list[str]:
    """One phrase per bound that the metrics do not keep."""
    if not metrics["finite"]:
        return ["the outputs are not finite"]
    failures = []
    if metrics.get("constant"):  # whatever was asked
        failures.append(
            f"{metrics['constant']} of {metrics['varying']} components of the outputs do not depend on the input"
        )
    if metrics.get("lost"):
        failures.append(f"{metrics['lost']} classes or masks of the program hardly occur")
    error = metrics.get("component_error")
    if error is not None and "component_error" not in bound and not error < FAR:  # as bounds of older bundles allow
        failures.append(f"{metrics['worst']} is off by {error:.3g} times its own spread")
    for metric, limit in bound.items():
        value = metrics.get(metric)
        if value is None:
            failures.append(f"{metric} is bounded but cannot be measured")
        elif metric in ERRORS and not value <= limit:
            name = metrics.get({"component_error": "worst", "tolerance_used": "worst_used"}.get(metric, ""))
            at = f" at {name}" if name else ""
            failures.append(f"{metric} {value:.3g} is above {limit:.3g}{at}")
        elif metric not in ERRORS and not value >= limit:
            failures.append(f"{metric} {value:.6g} is below {limit:.6g}")
    return failures


ERRORS = ("max_abs_error", "relative_error", "component_error", "tolerance_used")
