"""A small real bundle (see tests/device/conftest.py), as a folder and packed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from edgespa.bundle import pack

# pytest shares fixtures between sister folders only through the root's conftest.
_spec = importlib.util.spec_from_file_location("tiny_bundles", Path(__file__).parents[1] / "device" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)
make_bundle = _tiny.make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A good bundle with one ONNX file, which may be changed."""
    return Path(_tiny.write_bundle(tmp_path / "good", onnx=_tiny.onnx_bytes()))


@pytest.fixture(scope="session")
def kept_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, not to be changed."""
    return Path(_tiny.write_bundle(tmp_path_factory.mktemp("kept") / "good", onnx=_tiny.onnx_bytes()))


@pytest.fixture(scope="session")
def packed(kept_bundle: Path) -> Path:
    """`kept_bundle` as one file, not to be changed."""
    target = kept_bundle.parent / "good.tar"
    pack(kept_bundle, target)
    return target
