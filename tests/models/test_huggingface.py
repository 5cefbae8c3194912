"""Models of transformers are what their configurations say, with all of their weights, or they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgespa.errors import EdgespaError, ModelError, WeightsError
from edgespa.models.huggingface import in_cache
from edgespa.models.load import load_model
from edgespa.models.opening import learns_what
from edgespa.models.reference import BaseReference
from edgespa.models.trust import question

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
SEGFORMER = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 16}
RESNET = {"embedding_size": 8, "hidden_sizes": [8] * 4, "depths": [1] * 4, "out_features": ["stage2", "stage3"]}
HEADS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "classes": ("ViTForImageClassification", {**TINY, "image_size": 32, "num_labels": 5}, {}, {"logits": (2, 5)}),
    "map": ("SegformerForSemanticSegmentation", {**SEGFORMER, "num_labels": 6}, {}, {"logits": (2, 6, 8, 8)}),
    "boxes": (
        "YolosForObjectDetection", {**TINY, "image_size": [32, 32], "num_detection_tokens": 4, "num_labels": 3}, {},
        {"logits": (2, 4, 4), "pred_boxes": (2, 4, 4)},
    ),
    "backbone": ("ResNetBackbone", RESNET, {}, {"feature_maps": ((2, 8, 4, 4), (2, 8, 2, 2))}),
    "plain": ("ViTModel", {**TINY, "image_size": 32}, {}, {"last_hidden_state": (2, 17, 16), "pooler_output": (2, 16)}),
    "unpooled": (
        "ViTModel", {**TINY, "image_size": 32}, {"add_pooling_layer": False}, {"last_hidden_state": (2, 17, 16)},
    ),
}  # fmt: skip


def make(head: str, folder: Path) -> Any:
    """A small model with a head, saved; skips without the library."""
    transformers = pytest.importorskip("transformers", reason="TRANSFORMERS ABSENT: hf: models are not tested")
    name, settings, options, _ = HEADS[head]
    kind = getattr(transformers, name)
    torch.manual_seed(1)
    model = kind(kind.config_class(**settings), **options).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    make("classes", tmp_path / "vit")
    return tmp_path / "vit"


def failure(kind: type[EdgespaError], spec: str) -> EdgespaError:
    with pytest.raises(kind) as caught:
        load_model(spec)
    return caught.value


@pytest.mark.parametrize("head", HEADS)
def test_is_what_its_configuration_says(head: str, tmp_path: Path) -> None:
    saved, wanted = make(head, tmp_path / "model"), HEADS[head][3]
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = saved(pixel_values=x)
        found = load_model(f"hf:{tmp_path / 'model'}")(x)
    if len(wanted) == 1:
        found = {next(iter(wanted)): found}
    assert list(found) == list(wanted)
    for key, value in found.items():
        several = zip(value, output[key], strict=True) if isinstance(value, tuple) else [(value, output[key])]
        shapes = wanted[key] if isinstance(value, tuple) else (wanted[key],)
        for (one, other), shape in zip(several, shapes, strict=True):
            assert one.shape == shape
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("head", "what"), [("map", "segmentation"), ("classes", "classes")])
def test_what_it_learned_is_said_by_its_class(head: str, what: str, tmp_path: Path) -> None:
    make(head, tmp_path / "model")
    assert learns_what(load_model(f"hf:{tmp_path / 'model'}")) == what


def test_a_head_is_never_made_up(vit: Path) -> None:
    folder = vit
    state = load_file(folder / "model.safetensors")

    def become(architecture: str | None = "ViTForImageClassification", **changed: torch.Tensor | None) -> str:
        config = json.loads((folder / "config.json").read_text())
        config["architectures"] = [architecture] if architecture else None
        (folder / "config.json").write_text(json.dumps(config))
        own = {key: tensor for key, tensor in {**state, **changed}.items() if tensor is not None}
        save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
        return f"hf:{folder}"

    message = failure(WeightsError, become(**{"classifier.weight": None})).message
    assert "1 missing: classifier.weight" in message
    message = failure(WeightsError, become("ViTForMaskedImageModeling")).message
    assert "decoder.0.weight" in message
    assert "unexpected: classifier.bias" in message
    message = failure(WeightsError, become(**{"classifier.weight": torch.zeros(7, 16)})).message
    assert "classifier.weight (7, 16) instead of (5, 16)" in message
    assert "NoSuchModel" in failure(ModelError, become("NoSuchModel")).message
    assert "not images" in failure(ModelError, become("BertModel")).message
    assert load_model(become(None))(torch.rand(1, 3, 32, 32)).shape == (1, 5)


def test_weights_that_nothing_reads_are_noted(vit: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = vit
    state = {**load_file(folder / "model.safetensors"), "second_head.weight": torch.zeros(3)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    load_model(f"hf:{folder}")
    assert "does not use second_head.weight" in caplog.text


def test_a_model_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / ("0123456789" * 4)
    snapshot.mkdir(parents=True)
    refs = tmp_path / "models--org--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)
    assert (
        in_cache("//org/tiny")
        == in_cache("//org/tiny@main")
        == in_cache(f"//org/tiny@{snapshot.name}")
        == str(snapshot)
    )
    assert in_cache("org/tiny") == "org/tiny"
    with pytest.raises(ModelError, match="nothing is downloaded") as caught:
        in_cache("//org/tiny@v2")
    assert "hf download org/tiny --revision v2" in str(caught.value.hint)


@pytest.mark.parametrize(
    "name", ["//", "//tiny", "//../x", "//org/..", "//org/tiny@", "//org/tiny@--x", "//a/b@x/../y", "//a/b/c"]
)
def test_names_that_are_none_of_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="names no model on the hub"):
        in_cache(name)


def test_the_cache_is_no_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = BaseReference.record("hf://org/tiny@main", None, tmp_path)
    assert reference.resolve(tmp_path / "elsewhere")[0] == "hf://org/tiny@main"
    monkeypatch.setattr("edgespa.models.trust._is_plain_folder", lambda folder: True)
    assert question("hf://org/tiny") is not None  # it is not the folder /org/tiny that is opened
