"""``edgespa inspect``: the summary of what is fixed, and the drawing."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from edgespa.cli import main

NET = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_of_a_name_that_is_long = nn.Conv2d(3, 16, 2, stride=2)
        layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.patch_of_a_name_that_is_long(x).flatten(2).transpose(1, 2)
        return self.head(self.encoder(x).mean(1))

def build():
    return Encoder()

def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
"""
SHAPE = ("--input-shape", "1,3,4,4")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "net.py").write_text(NET)
    return folder


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["inspect", *arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result


def test_the_summary_counts_causes(place: Path) -> None:
    text = run(f"{place / 'net.py'}:build", *SHAPE).stdout
    table = text[text.index("\nFixed\n") :]
    assert table.split().count("layer_norm") == 1
    assert "kernel extents (2 slots)" in table
    assert "multiplied" not in table
    assert "…" not in table  # the example can be looked up
    # q, k, v and the first MLP layer of each of two layers; the other 16 + 2 * (16 + 16) channels meet the norm
    assert f"{2 * (48 + 24)} of {2 * (48 + 24) + 16 + 2 * 32} channels (64.3%)" in table
    row = next(line for line in table.splitlines() if line.startswith("layer_norm"))
    assert str(16 + 2 * 32) in row.split()
    assert max(map(len, text.splitlines())) <= 100


def test_where_nothing_but_the_interface_is_fixed(place: Path) -> None:
    text = run(f"{place / 'net.py'}:plain", *SHAPE).stdout
    assert "\nFixed\n" not in text
    assert "fixed: kernel extents (2 slots), the network's inputs and outputs (3 slots)" in text
    assert "8 of 8 channels (100.0%)" in text
    everything = run(f"{place / 'net.py'}:plain", *SHAPE, "--all").stdout
    assert "kernel extent (at conv2d)" in everything


def test_json_keeps_everything(place: Path) -> None:
    values = json.loads(run(f"{place / 'net.py'}:build", *SHAPE, "--json").stdout)
    assert any("multiplied (linear) with" in each["reason"] for each in values["fixed"])
    assert {each["kind"] for each in values["fixed"]} == {"kernel", "boundary", "inner"}


def test_a_drawing(place: Path, tmp_path: Path) -> None:
    target = tmp_path / "groups.svg"
    model = f"{place / 'net.py'}:build"
    result = run(model, *SHAPE, "--svg", str(target))
    assert f"drawing: {target}" in result.stdout
    root = ElementTree.parse(target).getroot()
    said = {element.text for element in root.iter("{http://www.w3.org/2000/svg}title")}
    assert f"Channel groups of {model}" in said
    target.write_text("mine")
    assert "--overwrite" in run(model, *SHAPE, "--svg", str(target), code=1).stderr
    assert target.read_text() == "mine"
    out = run(model, *SHAPE, "--svg", str(target), "--overwrite", "--json").stdout
    assert json.loads(out)["model"] == model
    assert target.read_text().startswith("<?xml")
    assert [path.name for path in tmp_path.iterdir()] == ["groups.svg"]
