"""The demo, as ``make demo`` runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgespa.bundle import verify_files
from edgespa.cli import main
from edgespa.tasks.task import Task


@pytest.mark.slow
@pytest.mark.more  # README's example and the tutorial go the same way, in tests of their own
def test_the_whole_way_twice(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    result = CliRunner().invoke(main, ["demo", "--output", str(output), "--json"])
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["base_accuracy"] > 0.95
    assert [row["variant"] for row in values["variants"]] == ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]
    for row in values["variants"]:
        assert row["accuracy"] > 0.9
        assert row["size_bytes"] < 0.4 * row["reference_size_bytes"]
        assert row["error"] < (1e-4 if row["variant"].endswith("fp32") else 0.3)
        assert 0 < row["p50_ms"] <= row["p90_ms"]
    assert 0.3 < values["figures"]["channel_density"] <= 0.4
    verify_files(output / "compact")
    task = Task.load(output / "compact.spa")
    assert task.program(task.open_base(output)).parameter_count() == values["figures"]["parameters"]
    assert list((output / "compact" / "profiles").iterdir())
