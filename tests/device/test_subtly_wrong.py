"""Files that are a little wrong, with digests and a seal that are right: the self-check sees what samples can show."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import NodeProto, helper, numpy_helper

from edgespa.bundle import verify_files
from edgespa.bundle.files import seal_of
from edgespa.cli._shell import main
from edgespa.device.measure.results import Check
from edgespa.device.runner.check import normalised, selfcheck

Tail = Callable[[], tuple[list[NodeProto], dict[str, Any]]]


def _node(kind: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def identity() -> tuple[list[NodeProto], dict[str, Any]]:
    return [_node("Mul", "raw k", "logits")], {"k": np.float32([1, 1, 1])}


def one_constant() -> tuple[list[NodeProto], dict[str, Any]]:
    tensors = {"k": np.float32([1, 0, 1]), "c": np.float32([0, 0.5, 0])}
    return [_node("Mul", "raw k", "q"), _node("Add", "q c", "logits")], tensors


def two_swapped() -> tuple[list[NodeProto], dict[str, Any]]:
    return [_node("Gather", "raw p", "logits", axis=1)], {"p": np.int64([0, 2, 1])}


def one_scaled() -> tuple[list[NodeProto], dict[str, Any]]:
    return [_node("Mul", "raw k", "logits")], {"k": np.float32([1, 1.05, 1])}


def one_shifted() -> tuple[list[NodeProto], dict[str, Any]]:
    return [_node("Add", "raw c", "logits")], {"c": np.float32([0, 0, 0.5])}


def nan_for_some() -> tuple[list[NodeProto], dict[str, Any]]:
    nodes = [
        _node("ReduceMax", "raw last", "top", keepdims=1), _node("Greater", "top many", "is"),
        _node("Where", "is nan zero", "more"), _node("Add", "raw more", "logits"),
    ]  # fmt: skip
    scalars = {"many": np.float32(20), "nan": np.float32("nan"), "zero": np.float32(0)}
    return nodes, {"last": np.int64([1]), **scalars}


def samples_mixed() -> tuple[list[NodeProto], dict[str, Any]]:
    """Right for a batch of one."""
    nodes = [_node("ReduceMean", "raw first", "mean", keepdims=1), _node("Sub", "raw mean", "apart")]
    nodes += [_node("Mul", "apart less", "part"), _node("Add", "part mean", "logits")]
    return nodes, {"first": np.int64([0]), "less": np.float32(0.9)}


def _by_batch(alone: float, together: float) -> tuple[list[NodeProto], dict[str, Any]]:
    nodes = [_node("Shape", "raw", "count", end=1), _node("Greater", "count one", "many")]
    nodes += [_node("Where", "many together alone", "k"), _node("Mul", "raw k", "logits")]
    return nodes, {"one": np.int64([1]), "together": np.float32([together]), "alone": np.float32([alone])}


def wrong_alone() -> tuple[list[NodeProto], dict[str, Any]]:
    return _by_batch(0.5, 1)


def wrong_together() -> tuple[list[NodeProto], dict[str, Any]]:
    return _by_batch(1, 0.5)


WRONG = (
    one_constant, two_swapped, one_scaled, one_shifted, nan_for_some, samples_mixed, wrong_alone, wrong_together
)  # fmt: skip


def with_tail(content: bytes, tail: Tail) -> bytes:
    """The file with something behind its output."""
    model = onnx.load_from_string(content)
    model.graph.node[-1].output[0] = "raw"
    nodes, tensors = tail()
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items())
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def checked(folder: Path) -> dict[str, Any]:
    verify_files(folder)  # nothing is wrong with digests and seal
    manifest = json.loads((folder / "manifest.json").read_text())
    return selfcheck(folder, manifest, manifest["variants"][0], 1)


@pytest.mark.parametrize("bound", [{"relative_error": 1e-4}, {"component_error": 0.3, "relative_error": 1e-3}])
@pytest.mark.parametrize("tail", WRONG, ids=lambda tail: tail.__name__)
def test_a_file_that_is_a_little_wrong_fails(
    bundle: Path, make_bundle: Any, tail: Tail, bound: dict[str, float]
) -> None:
    content = (bundle / "model.onnx").read_bytes()
    wrong = make_bundle(bundle.parent / "wrong", onnx=with_tail(content, tail), bound=bound)
    assert checked(wrong)["status"] == "failed"


def test_a_file_within_its_bounds_that_was_nearer_when_it_was_proved_is_told(bundle: Path, make_bundle: Any) -> None:
    """The bound of an int8 file is wide: of one whose input is scaled wrong by a twentieth, nothing was said."""
    content = (bundle / "model.onnx").read_bytes()
    wide = {"component_error": 0.3, "relative_error": 1e-3}
    folder = make_bundle(bundle.parent / "wide", onnx=with_tail(content, one_scaled), bound=wide)
    values = json.loads((folder / "manifest.json").read_text())
    (variant,) = values["variants"]
    variant["precision"], variant["parity"]["component_error"] = "int8", 0.01
    del variant["parity"]["bound"]["relative_error"]
    (folder / "manifest.json").write_text(json.dumps({**values, "seal": seal_of(values)}))
    found = Check.parse(checked(folder), "self-check")
    assert found.status == "passed"
    assert found.farther == pytest.approx(found.component_error / 0.01)  # type: ignore[operator]
    said = CliRunner().invoke(main, ["verify", str(folder)]).stderr
    assert f"{found.farther:.1f} times as far off as where it was exported" in said
    variant["parity"]["component_error"] = 0.9 * found.component_error  # type: ignore[operator]
    (folder / "manifest.json").write_text(json.dumps({**values, "seal": seal_of(values)}))
    assert checked(folder)["farther"] is None


def test_a_file_with_more_in_it_that_is_right_passes(bundle: Path, make_bundle: Any) -> None:
    content = (bundle / "model.onnx").read_bytes()
    assert checked(make_bundle(bundle.parent / "right", onnx=with_tail(content, identity)))["status"] == "passed"


def test_another_normalisation_in_the_manifest_fails(
    bundle: Path, make_bundle: Any, run_program: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Where images are recorded: as pixels, which only the manifest says how to normalise."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 3, 8, 8)).astype(np.uint8)
    how = json.loads((bundle / "manifest.json").read_text())["preprocessing"]
    stored = io.BytesIO()
    np.savez(stored, pixels_0=pixels, output_0=run_program(normalised(pixels, how)))
    content = (bundle / "model.onnx").read_bytes()
    extra = {"selfcheck.npz": stored.getvalue()}
    folder = make_bundle(bundle.parent / "pixels", onnx=content, selfcheck=False, extra=extra)
    assert checked(folder)["status"] == "passed"
    values = json.loads((folder / "manifest.json").read_text())
    values["preprocessing"]["std"][1] *= 1.05
    (folder / "manifest.json").write_text(json.dumps({**values, "seal": seal_of(values)}))
    assert checked(folder)["status"] == "failed"
