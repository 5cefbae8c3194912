"""A task's weights, made of its base and its task file: the graph came without any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.bundle.external import external_files
from edgespa.device.runner.bundle import RunnerError, altered, inside, sha256
from edgespa.device.runner.tensors import read_tensors, unpacked

BASE = "base.safetensors"
SPARE_BYTES = 64 << 20  # beside what the manifest says
WEIGHTS = "weights"  # where a graph without any says they are: they come from memory


def task_files(variant: dict[str, Any]) -> list[str]:
    """The files of the bundle that a variant needs."""
    weights = variant.get("weights") or {}
    parts = variant.get("parts") or []
    return [variant["file"], *parts, *(weights[key] for key in ("recipe", "task", "rest") if weights.get(key))]


def wrong_base(folder: Path, variant: dict[str, Any]) -> list[str]:
    """One phrase if the base beside the bundle is not the one that its weights are made of."""
    weights, path = variant.get("weights"), folder / BASE
    if not weights:
        return []
    if not path.is_file():
        return [f"{BASE}, the base that the weights are made of, is missing"]
    same = path.stat().st_size == weights["base_size_bytes"] and sha256(path) == weights["base_sha256"]
    return [] if same else [f"{BASE} is not the base that this task was made on"]


def beyond(folder: Path, manifest: dict[str, Any], variant: dict[str, Any]) -> list[str]:
    """One phrase for each file that a model refers to and that is not as the manifest says: nothing else is read."""
    if variant["format"] != "onnx":
        return []
    path = inside(folder, variant["file"])
    try:
        content = unpacked(path) if path.suffix == ".gz" else path.read_bytes()
        names = [name for name in external_files(content) if not (variant.get("weights") and name == WEIGHTS)]
    except (OSError, ValueError, RunnerError) as error:
        return [f"cannot load {path.name}: {error}"]
    listed = {entry["path"] for entry in manifest["files"]}
    words = "refers to {!r}, which is not in the manifest"
    unknown = [f"{path.name} {words.format(name[:100])}" for name in names if name not in listed]
    return unknown + altered(folder, manifest, [name for name in names if name in listed])


def materialise(folder: Path, variant: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weights of a variant by name.

    The recipe names for each tensor where it comes from: the task file (``task``), the file of those that nothing
    makes (``rest``), or the base (``base``), of which ``keep`` says by bit masks which indices of which dimension
    remain; then ``adapter`` says how the task's factors change it.
    """
    weights = variant["weights"]
    recipe = _recipe(inside(folder, weights["recipe"]))
    base = folder / BASE
    if not base.is_file():
        raise RunnerError(f"{BASE}, the base that the weights of {variant['name']} are made of, is missing")
    files = {"base": read_tensors(base), "task": read_tensors(inside(folder, weights["task"]))}
    if weights.get("rest"):
        files["rest"] = read_tensors(inside(folder, weights["rest"]))
    try:
        masks = [
            np.flatnonzero(np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8))[:count])
            for count, bits in recipe["masks"]
        ]
        made, left = {}, SPARE_BYTES + 4 * int(weights.get("made_bytes", 0))
        for name, entry in recipe["tensors"].items():
            made[name] = _made(name, entry, files, masks)
            left -= made[name].nbytes
            if left < 0:
                raise RunnerError("the recipe makes far more than the manifest says")
        return made
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise RunnerError(f"the recipe does not fit the base and the task: {type(error).__name__}: {error}") from error


def _recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(unpacked(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunnerError(f"cannot read {path.name}: {error}") from error
    if not isinstance(recipe, dict) or recipe.get("version") != 1:
        raise RunnerError(f"{path.name} is not a recipe of version 1, which this run.py reads")
    return recipe


def _made(
    name: str, entry: dict[str, Any], files: dict[str, dict[str, np.ndarray]], masks: list[np.ndarray]
) -> np.ndarray:
    value = files[entry["from"]][entry["name"]]
    for dim, mask in entry.get("keep", []):
        value = np.take(value, masks[mask], axis=dim)
    how = entry.get("adapter")
    if how is not None:
        wide = value.astype(np.promote_types(value.dtype, np.float32), copy=False)
        value = CHANGES[how["kind"]](wide, _Factors(files["task"], name), how).astype(value.dtype, copy=False)
    return np.asarray(value, dtype=entry.get("dtype") or value.dtype, order="C")


class _Factors:
    """The adapter of one tensor as the task file holds it: factors may be in half precision, or int8 with scales."""

    def __init__(self, tensors: dict[str, np.ndarray], name: str) -> None:
        self.tensors, self.prefix = tensors, f"adapter/{name}/"

    def __contains__(self, factor: str) -> bool:
        return self.prefix + factor in self.tensors

    def __getitem__(self, factor: str) -> np.ndarray:
        return self._decoded(self.prefix + factor)

    def shared(self, name: str) -> np.ndarray:
        """A tensor that all adapters of the task have in common."""
        return self._decoded(f"shared/{name}")

    def _decoded(self, key: str) -> np.ndarray:
        tensor, scale = self.tensors[key], self.tensors.get(f"scale/{key}")
        if scale is not None:
            axis = 0 if tensor.shape[0] <= tensor.shape[-1] else tensor.ndim - 1
            return np.asarray(
                tensor.astype(np.float32) * scale.reshape([-1 if i == axis else 1 for i in range(tensor.ndim)])
            )
        return tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor


def _at_taps(change: np.ndarray, weight: np.ndarray, every: bool) -> np.ndarray:
    """A change [out, in, taps] in the weight's shape: of every tap, or of the one in the middle."""
    if every or weight.ndim == 2:
        return change.reshape(weight.shape)
    result = np.zeros(weight.shape, change.dtype)
    result[(slice(None), slice(None), *(size // 2 for size in weight.shape[2:]))] = change[:, :, 0]
    return result


def _low_rank(weight: np.ndarray, factors: _Factors, how: dict[str, Any]) -> np.ndarray:
    """``W + scale * up @ down``, or ``W + down`` where ``down`` is the product (SPLoRA, LoRA)."""
    product = factors["up"] @ factors["down"] if "up" in factors else factors["down"]
    if how["scale"] != 1.0:
        product = product * np.float32(how["scale"])
    change = product.reshape(*weight.shape[:2], -1)
    return np.asarray(weight + _at_taps(change, weight, how["kernel"] == "full").astype(weight.dtype, copy=False))


def _scaled(weight: np.ndarray, factors: _Factors, how: dict[str, Any]) -> np.ndarray:
    """``scale * W`` (SSF)."""
    return np.asarray(weight * factors["scale"].astype(weight.dtype, copy=False))


def _before(weight: np.ndarray, factors: _Factors, how: dict[str, Any]) -> np.ndarray:
    """``W + scale * W @ up @ down`` over the input channels (RepAdapter)."""
    up, down = factors["up"], factors["down"]
    if "block" in factors:
        groups = down.shape[0] // up.shape[1]
        own = factors["block"].astype(np.int64)[:, None] == np.arange(groups)
        up = (own[:, :, None] * up[:, None, :]).reshape(len(up), -1)
    wide = np.moveaxis(weight.astype(up.dtype, copy=False), how["in_dim"], -1)
    change = (wide @ up) @ down * np.float32(how["scale"])
    return np.asarray(weight + np.moveaxis(change, -1, how["in_dim"]).astype(weight.dtype, copy=False))


def _prototypes(weight: np.ndarray, factors: _Factors, how: dict[str, Any]) -> np.ndarray:
    """``(W + sum_i B_i kron (p_i q_i^T)) * (M kron 1)`` (SPLoPA)."""
    left, right = factors.shared("left"), factors.shared("right")
    block = left.shape[1]
    own = [
        factors[key].astype(np.int64) if key in factors else np.arange(size)
        for key, size in zip(("rows", "columns"), weight.shape)
    ]
    rows, columns = own
    values = factors["coefficients"]
    mask = factors["mask"].astype(bool) if "mask" in factors else None
    if mask is not None and values.ndim == 3:  # those of masked blocks are left out
        kept, values = values, np.zeros((len(values), *mask.shape, values.shape[-1]), values.dtype)
        values[:, mask] = kept
    spread = values[:, rows // block] * left[:, rows % block][:, :, None, None]
    change = np.einsum("noct,nq->otcq", spread, right)
    change = change.reshape(*change.shape[:2], -1)[:, :, columns].transpose(0, 2, 1)
    result = weight + _at_taps(change, weight, change.shape[2] > 1).astype(weight.dtype, copy=False)
    if mask is None:
        return np.asarray(result)
    gate = mask[rows // block][:, columns // block].reshape(*weight.shape[:2], *(1 for _ in weight.shape[2:]))
    return np.asarray(result * gate.astype(weight.dtype))


def _added(weight: np.ndarray, factors: _Factors, how: dict[str, Any]) -> np.ndarray:
    """``W + change`` (a mixing adapter of few channels)."""
    return np.asarray(weight + factors["change"].astype(weight.dtype, copy=False))


def _mixed(weight: np.ndarray, factors: _Factors, how: dict[str, Any]) -> np.ndarray:
    """``C W D`` of the whole weight: rows and columns of the identity, and a pair of factors each (mixing)."""
    rows, columns = (np.flatnonzero(factors[key]) for key in ("rows", "columns"))
    value = weight.reshape(*weight.shape[:2], -1)
    flat = value.reshape(len(value), -1)
    change = (factors["compress"] @ (factors["rows_in"] @ flat)).reshape(-1, *value.shape[1:])
    value = value[rows] + change
    spread = np.tensordot(value, factors["columns_in"], (1, 0)) @ factors["expand"]
    value = value[:, columns] + np.moveaxis(spread, 2, 1)
    return np.asarray(value.reshape(*value.shape[:2], *weight.shape[2:]))


CHANGES = {
    "low-rank": _low_rank, "scale": _scaled, "before": _before, "prototypes": _prototypes, "added": _added,
    "mixed": _mixed,
}  # fmt: skip
