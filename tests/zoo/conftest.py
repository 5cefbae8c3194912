"""The networks of ``benchmarks/zoo``, whose libraries are found where ``make zoo`` has put them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "zoo"
    spec = importlib.util.spec_from_file_location(f"edgespa_zoo_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


networks, measure = _load("networks"), _load("measure")
# What `make test` runs of it: small networks with the ideas that have broken pruning tools.
REPRESENTATIVE = (
    "torchvision:mobilenet_v3_small", "torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1",
    "segmentation:lraspp_mobilenet_v3_large", "timm:nf_regnet_b0", "timm:convnextv2_atto", "timm:resnest14d",
    "transformers:ViTForImageClassification",
)  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "network" not in metafunc.fixturenames:
        return
    names = [name for library in networks.LIBRARIES for name in networks.names(library)]
    some = any(name.startswith("timm:") for name in names)
    marks = {name: () if name in REPRESENTATIVE else (pytest.mark.more,) for name in names}
    cases = [pytest.param(name, marks=marks[name]) for name in names] if some else []
    absent = pytest.param("", marks=pytest.mark.skip("ZOO ABSENT: torchvision and timm are not installed; make zoo"))
    metafunc.parametrize("network", cases or [absent])
