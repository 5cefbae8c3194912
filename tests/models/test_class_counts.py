"""Models of libraries with another number of classes than they come with: ``torchvision:resnet18,classes=10``."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from edgespa.errors import ModelError, WeightsError
from edgespa.models import libraries
from edgespa.models.imports import library_name
from edgespa.models.load import load_model
from edgespa.models.trust import _identity


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("timm:resnet18", ("timm", "resnet18", None)),
        ("timm:resnet18,classes=10", ("timm", "resnet18", 10)),
        ("timm:hf_hub:a/b,classes=2", ("timm", "hf_hub:a/b", 2)),
        ("timm:resnet18,classes=0", ("timm", "resnet18,classes=0", None)),
        ("timm:resnet18,classes=ten", ("timm", "resnet18,classes=ten", None)),
        ("timm:,classes=10", ("timm", ",classes=10", None)),
        ("net.py:build", ("net.py", "build", None)),
    ],
)
def test_the_number_behind_a_name(spec: str, wanted: tuple[str, str, int | None]) -> None:
    assert library_name(spec) == wanted


class Net(nn.Module):
    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(images).mean((2, 3)))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands for timm: builds, and has no weights of its own."""

    def create_model(name: str, pretrained: bool, **options: Any) -> nn.Module:
        assert not pretrained
        return Net(**options)

    timm = SimpleNamespace(is_model=lambda name: name == "net", create_model=create_model, list_models=lambda: ["net"])
    monkeypatch.setattr(libraries, "_import", lambda package: timm)


def weights(path: Path, classes: int) -> str:
    torch.manual_seed(7)
    torch.save(Net(classes).state_dict(), path)
    return str(path)


def test_an_untrained_one(library: None) -> None:
    assert load_model("timm:net,classes=10", "random").fc.out_features == 10
    with pytest.raises(ModelError, match="named 'net,classes=x'"):
        load_model("timm:net,classes=x", "random")


def test_weights_of_as_many_classes_fit_whole(library: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = weights(tmp_path / "w.pt", 10)
    model = load_model("timm:net,classes=10", file)
    assert torch.equal(model.fc.weight, torch.load(file, weights_only=True)["fc.weight"])
    assert not caplog.messages


def test_weights_of_another_number_fill_the_rest(
    library: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = weights(tmp_path / "w.pt", 1000)
    with caplog.at_level(logging.INFO):
        first, second = (load_model("timm:net,classes=10", file) for _ in range(2))
    stored = torch.load(file, weights_only=True)
    assert torch.equal(first.body.weight, stored["body.weight"])
    assert first.fc.out_features == 10
    assert torch.equal(first.fc.weight, second.fc.weight)  # so a task file finds its base again
    assert "a new last layer of 10 classes, untrained: fc.weight, fc.bias" in caplog.messages[0]


def test_who_forgets_the_number_is_told_it(library: None, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"fc\.weight 10x4 float") as caught:
        load_model("timm:net", weights(tmp_path / "w.pt", 10))
    assert "timm:net,classes=10" in str(caught.value.hint)


def test_what_differs_elsewhere_is_no_new_head(library: None, tmp_path: Path) -> None:
    state = Net(10).state_dict()
    state["body.weight"] = torch.zeros(5, 3, 3, 3)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"body\.weight 5x3x3x3") as caught:
        load_model("timm:net,classes=10", str(tmp_path / "w.pt"))
    assert "classes=" not in str(caught.value.hint)
    with pytest.raises(WeightsError) as caught:
        load_model("timm:net", str(tmp_path / "w.pt"))
    assert "classes=" not in str(caught.value.hint)


def test_a_base_of_so_many_classes_is_another_base(tmp_path: Path) -> None:
    (tmp_path / "vit").mkdir()
    plain, ten = _identity(f"hf:{tmp_path}/vit"), _identity(f"hf:{tmp_path}/vit,classes=10")
    assert plain != ten
    assert ten == {"spec": f"hf:{(tmp_path / 'vit').resolve()},classes=10"}


def test_of_transformers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
        num_labels=7,
    )
    whole = transformers.ViTForImageClassification(config)
    whole.save_pretrained(tmp_path / "vit")
    with caplog.at_level(logging.INFO):
        model = load_model(f"hf:{tmp_path}/vit,classes=3")
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
    assert any("a new last layer of 3 classes" in text for text in caplog.messages)
    own = whole.vit.embeddings.patch_embeddings.projection.weight
    assert torch.equal(model.core.vit.embeddings.patch_embeddings.projection.weight, own)
    assert load_model(f"hf:{tmp_path}/vit,classes=7")(torch.zeros(1, 3, 8, 8)).shape == (1, 7)
