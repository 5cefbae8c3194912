"""Calibration specs: which images they give, and that they are found, checked and refused as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespa.data import load_data
from edgespa.data.calibration import CalibrationSpec, check, digest_of, find_spec, make, require_spec, shipped
from edgespa.errors import ConfigError, DataError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 4, 4, 3)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.repeat([0, 0, 1, 2], 15))
    np.savez(tmp_path / "bare.npz", images=images)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGESPA_DATA", raising=False)
    return tmp_path


def write(folder: Path, **values: Any) -> str:
    path = folder / "s.toml"
    path.write_text(CalibrationSpec.model_validate({"source": "d.npz", **values}).to_toml())
    return str(path)


def test_those_that_come_with_it_are_whole() -> None:
    specs = shipped()
    assert {"digits-256", "mnist-512", "jpeg-cifar-512", "imagenet-512"} <= set(specs)
    for name, named in specs.items():
        assert named.spec.description
        assert named.spec.mean is not None
        assert name.endswith(str(named.spec.count))
    digits = check(specs["digits-256"])
    assert digits["images"] == 256
    assert digits["classes"] == 10
    assert (digits["fewest_of_a_class"], digits["most_of_a_class"]) == (25, 26)


def test_balanced_by_class_or_not(place: Path) -> None:
    even = require_spec(write(place, count=12)).load()
    assert np.bincount(even.labels).tolist() == [4, 4, 4]
    anyhow = require_spec(write(place, count=12, balance="none", seed=3)).load()
    assert len(anyhow) == 12
    again = require_spec(write(place, count=12, balance="none", seed=3)).load()
    other = require_spec(write(place, count=12, balance="none", seed=4)).load()
    assert digest_of(anyhow) == digest_of(again) != digest_of(other)
    bare = require_spec(write(place, source="bare.npz", count=12, balance="none")).load()
    assert not bare.labelled
    assert len(require_spec(write(place)).load()) == 60


def test_a_limit_takes_part_of_it(place: Path) -> None:
    named = require_spec(write(place, count=12))
    few, many = named.load(6), named.load(100)
    assert (len(few), len(many)) == (6, 12)
    pixels = {many.image(index).tobytes() for index in range(12)}
    assert all(few.image(index).tobytes() in pixels for index in range(6))


def test_a_source_begins_at_the_file_or_at_the_data_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(place, count=3)
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert len(require_spec(path).load()) == 3
    with pytest.raises(DataError, match=r"calibration mnist-512: .*does not exist"):
        require_spec("mnist-512").load()


def test_the_digest_tells_other_images(place: Path) -> None:
    spec = make(CalibrationSpec(source="d.npz", count=8), place)
    assert spec.digest is not None
    path = place / "s.toml"
    path.write_text(spec.to_toml())
    assert check(require_spec(str(path)))["same"] is True
    path.write_text(spec.model_copy(update={"seed": 1}).to_toml())
    assert check(require_spec(str(path)))["same"] is False


def test_toml_survives_the_way_there_and_back(place: Path) -> None:
    spec = CalibrationSpec(source='a "b"\\c:train', description="x\ny", count=3, mean=(0.1, 0.9), std=(1.0, 0.25))
    (place / "t.toml").write_text(spec.to_toml())
    assert require_spec("t.toml").spec == spec


def test_what_is_no_spec(place: Path) -> None:
    assert find_spec("d.npz") is None
    assert find_spec("digits:train") is None
    assert find_spec("no/such/folder") is None
    with pytest.raises(ConfigError, match="no data and no calibration spec") as caught:
        find_spec("mnist-51")
    assert "mnist-512" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="cannot be read"):
        find_spec("none.toml")
    for content, said in (
        ("source = [", "not TOML"),
        ('source = "x"\ncuont = 3', "did you mean 'count'"),
        ('source = "x"\nmean = [0.1]', "mean and std go together"),
        ("count = 3", "source"),
    ):
        (place / "bad.toml").write_text(content)
        with pytest.raises(ConfigError) as caught:
            find_spec("bad.toml")
        assert said in f"{caught.value.message} {caught.value.hint}"
    with pytest.raises(ConfigError, match="no calibration spec") as caught:
        require_spec("mnist-51")
    assert "mnist-512" in str(caught.value.hint)
    with pytest.raises(DataError, match=r"99 images are wanted, .* has 60"):
        require_spec(write(place, count=99)).load()
    (place / "mnist-512").mkdir()  # data of that name come first
    assert find_spec("mnist-512") is None


def test_code_that_a_file_names_is_not_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a module of Python's; the same data named by the user are taken, and then the file is, too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    (place / "own.py").write_text(
        "from pathlib import Path\nimport torch\nPath('ran').touch()\n\n"
        "def images():\n    return [(torch.rand(3, 4, 4), i % 2) for i in range(4)]\n"
    )
    for source in ("own.py:images", "own:images", "this:s", str(place / "own.py:images")):
        with pytest.raises(DataError, match="code that was not used here before") as caught:
            require_spec(write(place, source=source, balance="none")).load()
        assert source in str(caught.value.hint)
    assert not (place / "ran").exists()
    load_data("own.py:images", labelled=False)
    (place / "ran").unlink()
    assert len(require_spec(write(place, source="own.py:images", balance="none")).load()) == 4
    assert make(CalibrationSpec(source="own:images", balance="none"), place).digest
