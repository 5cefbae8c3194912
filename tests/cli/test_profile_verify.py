from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgespa.cli import profile, verify
from edgespa.errors import BundleError, DeviceError

# The tiny bundles of the device tests: pytest shares fixtures between sister folders only through the root's conftest.
_spec = importlib.util.spec_from_file_location("tiny_bundles", Path(__file__).parents[1] / "device" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)
tflite_bytes, bundle, full_bundle = _tiny.tflite_bytes, _tiny.bundle, _tiny.full_bundle
bad_bundle, no_onnxruntime, make_bundle = _tiny.bad_bundle, _tiny.no_onnxruntime, _tiny.make_bundle


def invoke(module: Any, *arguments: str | Path) -> Result:
    return CliRunner().invoke(module.command, [str(each) for each in arguments])


def test_verify(full_bundle: Path) -> None:
    result = invoke(verify, full_bundle)
    assert result.exit_code == 0, result.output
    # 2 models, run.py, selfcheck.npz, labels.txt
    assert "5 files, all as in the manifest" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[:2] for line in lines if line[:1] == ["onnx-fp32"]] == [["onnx-fp32", "passed"]]
    assert [line[:2] for line in lines if line[:1] == ["tflite-fp32"]] == [["tflite-fp32", "passed"]]
    assert max(map(len, result.stdout.splitlines()[1:])) <= 80
    assert result.stderr == ""


def test_verify_json(full_bundle: Path) -> None:
    result = invoke(verify, full_bundle, "--json")
    values = json.loads(result.stdout)
    assert values["passed"] is True
    assert values["files"] == 5
    assert [check["status"] for check in values["variants"]] == ["passed", "passed"]


def test_verify_fails_when_a_variant_computes_something_else(bad_bundle: Path) -> None:
    result = invoke(verify, bad_bundle, "--json")
    assert result.exit_code == 1
    assert isinstance(result.exception, BundleError)
    assert "onnx-fp32 (relative_error" in result.exception.message
    assert json.loads(result.stdout)["passed"] is False
    # The digests are right, so without running it nothing is wrong, and that is said.
    quiet = invoke(verify, bad_bundle, "--no-run")
    assert quiet.exit_code == 0
    assert "NOT RUN" in quiet.stderr


def test_verify_fails_on_a_changed_file_before_anything_runs(make_bundle: Any, tmp_path: Path) -> None:
    runner = f"open({str(tmp_path / 'was-run')!r}, 'w')\n"
    changed = make_bundle(tmp_path / "changed", onnx=b"x", runner=runner)
    (changed / "model.onnx").write_bytes(b"y")
    result = invoke(verify, changed)
    assert isinstance(result.exception, BundleError)
    assert "model.onnx has changed" in result.exception.message
    assert not (tmp_path / "was-run").exists()


def test_verify_says_loudly_what_was_not_run(no_onnxruntime: None, full_bundle: Path, bundle: Path) -> None:
    result = invoke(verify, full_bundle)
    assert result.exit_code == 0
    assert "NOT RUN: onnx-fp32: no runtime for onnx files" in result.stderr
    nothing = invoke(verify, bundle)
    assert nothing.exit_code == 1
    assert isinstance(nothing.exception, DeviceError)
    assert "nothing is proved" in nothing.exception.message
    assert invoke(verify, bundle, "--no-run").exit_code == 0


def test_verify_in_another_environment(full_bundle: Path, bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    result = invoke(verify, full_bundle, "--python", other)
    assert result.exit_code == 0, result.output
    *lines, last = result.stdout.splitlines()[3:]
    assert last == "error, against its own spread, and correlation: of the worst of 3 components"
    rows = [line.split() for line in lines]
    names = ["onnx-fp32", "tflite-fp32"]
    assert [(row[0], row[1]) for row in rows] == [(name, "passed") for name in names * 2]
    assert [row[2] for row in rows] == ["onnxruntime", "ai_edge_litert"] * 2
    empty = tmp_path / "empty"
    empty.write_text(
        "#!/bin/sh\necho '"
        '{"selfcheck": [{"name": "onnx-fp32", "status": "not run", "runtime": null, "failures": ["no runtime"]}]}'
        "'\n"
    )
    empty.chmod(0o755)
    for python, words in ((empty, "no variant can be run there: no runtime"), (tmp_path / "nowhere", "cannot be run")):
        error = invoke(verify, bundle, "--python", python).exception
        assert isinstance(error, DeviceError)
        assert words in error.message
    assert invoke(verify, bundle, "--python", other, "--no-run").exit_code == 2


def test_what_runs_in_another_environment_is_not_told_as_not_run(
    no_onnxruntime: None, full_bundle: Path, tmp_path: Path
) -> None:
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    result = invoke(verify, full_bundle, "--python", other, "--json")
    checks = json.loads(result.stdout)["variants"]
    assert [(check["name"], check["status"]) for check in checks] == [
        ("tflite-fp32", "passed"),
        ("onnx-fp32", "passed"),
        ("tflite-fp32", "passed"),
    ]


def test_verify_of_no_bundle(tmp_path: Path) -> None:
    result = invoke(verify, tmp_path / "nowhere")
    assert isinstance(result.exception, BundleError)
    assert "there is no such folder" in result.exception.message


def test_profile_prints_a_table_and_saves(full_bundle: Path) -> None:
    usual = ("--runtime", "onnxruntime", "--runtime", "ai_edge_litert")
    result = invoke(
        profile, full_bundle, *usual, "--runs", "130", "--device", "local", "--threads", "1", "--threads", "2"
    )
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    rows = [line.split() for line in result.stdout.splitlines() if "fp32" in line]
    # A machine with sensors shows a third table.
    assert [row[:2] for row in rows[:8]] == [
        [name, n] for _ in range(2) for name in ("onnx-fp32", "tflite-fp32") for n in "12"
    ]
    minimum, mean, p50, p90, p95, p99 = rows[0][2:]
    assert float(minimum) <= float(p50) <= float(p90) <= float(p95)
    assert float(mean) > 0
    assert p99 == "-"
    (saved,) = os.listdir(full_bundle / "profiles")
    assert saved in result.stderr.replace("\n", "")
    assert saved.endswith("-local.json")


def test_profile_json_is_what_is_saved(bundle: Path) -> None:
    result = invoke(profile, bundle, "--runs", "10", "--json")
    (saved,) = (bundle / "profiles").iterdir()
    assert json.loads(result.stdout) == json.loads(saved.read_text())


@pytest.mark.more
def test_profile_against_another_bundle(full_bundle: Path, bundle: Path) -> None:
    result = invoke(profile, full_bundle, "--against", bundle, "--runs", "10", "--variant", "onnx-fp32", "--no-save")
    assert result.exit_code == 0, result.output
    assert "p50 of full / p50 of good" in result.stdout
    assert "medians of 3 rounds" in result.stdout
    assert "tflite" not in result.stdout
    assert not (full_bundle / "profiles").exists()


def test_profile_says_loudly_what_was_not_measured(no_onnxruntime: None, full_bundle: Path) -> None:
    result = invoke(profile, full_bundle, "--runs", "10", "--no-save")
    assert result.exit_code == 0
    assert "NOT MEASURED: full: onnx-fp32" in result.stderr


def test_results_are_shown_even_if_they_cannot_be_saved(bundle: Path) -> None:
    (bundle / "profiles").touch()
    result = invoke(profile, bundle, "--runs", "10")
    assert isinstance(result.exception, DeviceError)
    assert "cannot save the profile" in result.exception.message
    assert "onnx-fp32" in result.stdout


def test_profile_on_an_unknown_device(bundle: Path) -> None:
    result = invoke(profile, bundle, "--device", "pi-zero")
    assert isinstance(result.exception, DeviceError)
    assert "pi-zero" in result.exception.message
    assert "pi-zero-2w" in str(result.exception.hint)


@pytest.mark.parametrize("option", ["--threads", "--runs", "--rounds", "--seconds"])
def test_numbers_out_of_range_are_wrong_usage(bundle: Path, option: str) -> None:
    assert invoke(profile, bundle, option, "0").exit_code == 2
