"""What a library records of its model's images becomes the preprocessing, and is told."""

from __future__ import annotations

import importlib.machinery
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgespa.adaptation.config import AdaptConfig
from edgespa.api.bundles import export_bundle
from edgespa.api.options import DataOptions
from edgespa.api.tasks import adapt_to_file, prune_to_file
from edgespa.bundle import read_manifest
from edgespa.config import PixelSettings, Preprocess
from edgespa.errors import ConfigError, ModelError
from edgespa.exporting.bundle import ExportConfig
from edgespa.models.recorded import Recorded, of_timm, of_torchvision, of_transformers, recorded
from edgespa.pixels.picture import model_pixels
from edgespa.pixels.values import normalised
from edgespa.pruning import PruneConfig
from edgespa.tasks.base import Base

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class TestReading:
    @pytest.mark.parametrize(
        ("config", "settings"),
        [
            ({"crop_pct": 0.875, "interpolation": "bicubic", "crop_mode": "center"},
             {"resize": "crop", "resize_to": (292, 146), "interpolation": "bicubic"}),
            ({"crop_pct": 1.0, "interpolation": "bilinear", "crop_mode": "squash"},
             {"resize": "stretch", "resize_to": (256, 128), "interpolation": "bilinear"}),
            ({"crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "squash"},
             {"resize": "stretch", "resize_to": (284, 142), "interpolation": "bicubic"}),
            ({"crop_pct": 1.0, "interpolation": "lanczos", "crop_mode": "border"},
             {"resize": "letterbox", "resize_to": (256, 128), "interpolation": "lanczos", "padding": (128,) * 3}),
            ({}, {"resize": "crop", "resize_to": (292, 146), "interpolation": "bicubic"}),
        ],
    )  # fmt: skip
    def test_timm(self, config: dict[str, Any], settings: dict[str, Any]) -> None:
        found = of_timm({"input_size": (3, 256, 128), **HALF, **config})
        assert (found.size, found.mean, found.std) == ((3, 256, 128), (0.5,) * 3, (0.5,) * 3)
        assert found.settings == PixelSettings(**settings)

    def test_torchvision(self) -> None:
        transforms = SimpleNamespace(
            crop_size=[224], resize_size=[256], interpolation=SimpleNamespace(value="bicubic"), **IMAGENET
        )
        found = of_torchvision(transforms)
        assert found.size == (3, 224, 224)
        assert (found.mean, found.std) == (IMAGENET["mean"], IMAGENET["std"])
        assert found.settings.said() == {"resize": "crop", "resize_to": (256, 256), "interpolation": "bicubic"}

    def test_torchvision_of_no_fixed_size(self) -> None:
        """Transforms of segmentation crop nothing, those of detection do nothing at all."""
        found = of_torchvision(
            SimpleNamespace(resize_size=[520], interpolation=SimpleNamespace(value="bilinear"), **IMAGENET)
        )
        assert (found.size, found.mean) == (None, IMAGENET["mean"])
        assert "shorter side was 520" in found.otherwise
        assert of_torchvision(SimpleNamespace()) == Recorded(None, (0.0,), (1.0,))

    @pytest.mark.parametrize(
        ("processor", "mean", "std"),
        [
            ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, (0.5,) * 3, (0.5,) * 3),
            ({"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, (0.0,), (1.0,)),
            # 0..255 as they are, less a mean of bytes
            ({"do_rescale": False, "image_mean": [127.5], "image_std": [127.5]}, (0.5,), (0.5,)),
            # -1..1 by the scale: pixel / 127.5 - 1
            ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, (0.5,), (0.5,)),
            ({"image_mean": 0.5, "image_std": 0.25}, (0.5,), (0.25,)),
            ({"image_mean": 0.5, "image_std": 0.5, "include_top": True}, (0.5,), (0.25,)),
            ({"size": 224}, (0.0,), (1.0,)),
        ],
    )
    def test_scales_of_transformers(
        self, processor: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        found = of_transformers({"image_size": 224}, processor)
        assert found.mean == pytest.approx(mean)
        assert found.std == pytest.approx(std)

    @pytest.mark.parametrize(
        ("config", "processor", "size", "settings"),
        [
            ({"image_size": 16}, {}, (3, 16, 16), {}),
            ({"image_size": [16, 24], "num_channels": 1}, {}, (1, 16, 24), {}),
            ({}, {"size": {"height": 8, "width": 9}, "resample": 2}, (3, 8, 9),
             {"resize": "stretch", "resize_to": (8, 9), "interpolation": "bilinear"}),
            ({}, {"size": 8, "resample": 3}, (3, 8, 8),
             {"resize": "stretch", "resize_to": (8, 8), "interpolation": "bicubic"}),
            ({}, {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
             (3, 224, 224), {"resize": "crop", "resize_to": (256, 256), "interpolation": "bilinear"}),
            ({}, {"size": 256, "do_center_crop": True, "crop_size": 224},
             (3, 224, 224), {"resize": "crop", "resize_to": (256, 256), "interpolation": "bilinear"}),
            ({}, {"size": 256, "do_center_crop": True, "crop_size": 224, "feature_extractor_type": "BeitX"},
             (3, 224, 224), {"resize": "stretch", "resize_to": (256, 256), "interpolation": "bilinear"}),
            ({}, {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}, (3, 224, 224),
             {"resize": "crop", "resize_to": (256, 256), "interpolation": "bicubic"}),
            ({}, {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 1}, (3, 384, 384),
             {"resize": "stretch", "resize_to": (384, 384), "interpolation": "lanczos"}),
            # an input of another size than the processor's: as much of the picture is seen
            ({"image_size": 112}, {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224},
             (3, 112, 112), {"resize": "crop", "resize_to": (128, 128), "interpolation": "bilinear"}),
            ({}, {"size": {"shortest_edge": 6}, "do_center_crop": True, "crop_size": 8, "resample": 0}, (3, 8, 8),
             {"resize": "crop", "resize_to": (6, 6), "interpolation": "nearest", "padding": (0,)}),
            ({"image_size": 8}, {"do_flip_channel_order": True, "do_resize": False}, (3, 8, 8),
             {"channel_order": "bgr"}),
            ({}, {}, None, {}),
        ],
    )  # fmt: skip
    def test_settings_of_transformers(
        self,
        config: dict[str, Any],
        processor: dict[str, Any],
        size: tuple[int, int, int] | None,
        settings: dict[str, Any],
    ) -> None:
        found = of_transformers(config, processor)
        assert (found.size, found.settings.said(), found.otherwise) == (size, settings, "")

    @pytest.mark.parametrize(
        "processor",
        [
            {"size": {"shortest_edge": 800, "longest_edge": 1333}},
            {"size": {"shortest_edge": 224}},  # and any longer side
            {"size": {"height": 8, "width": 8}, "image_processor_type": "PerceiverImageProcessor"},  # crops first
            {"size": {"height": 8, "width": 8}, "keep_aspect_ratio": True, "resample": None},
            {"size": {"height": 8, "width": 8}, "do_pad": True, "pad_size": 12},
        ],
    )
    def test_what_is_not_done_here(self, processor: dict[str, Any]) -> None:
        assert "which is not done here" in of_transformers({"image_size": 8}, processor).otherwise

    def test_a_crop_without_a_size(self) -> None:
        found = of_transformers({"image_size": 8}, {"do_resize": False, "do_center_crop": True, "crop_size": 8})
        assert found.otherwise == "cropped without being resized"

    def test_for_another_input(self) -> None:
        boxed = of_timm({"input_size": (3, 8, 8), **HALF, "crop_mode": "border", "crop_pct": 0.95})
        assert boxed.for_input(3, 224, 160) == {
            "resize": "letterbox", "resize_to": (235, 168), "interpolation": "bicubic", "padding": (128,) * 3,
        }  # fmt: skip
        assert "padding" not in boxed.for_input(1, 8, 8)
        assert of_timm({"crop_pct": 0.5}).for_input(3, 8, 8)["resize_to"] == (16, 16)  # of no size of its own
        settings = PixelSettings(resize="crop", resize_to=(6, 6), padding=(0,), channel_order="bgr")
        assert Recorded((3, 8, 8), settings=settings).for_input(1, 16, 16) == {
            "resize": "crop", "resize_to": (12, 12), "padding": (0,),
        }  # fmt: skip


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)
        self.pretrained_cfg = {
            "input_size": (3, 8, 8), **HALF, "crop_pct": 0.8, "interpolation": "bicubic", "crop_mode": "center",
        }  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A timm of one model."""
    made = SimpleNamespace(build=Tiny)
    module = ModuleType("timm")
    module.__spec__ = importlib.machinery.ModuleSpec("timm", None)
    vars(module).update(
        is_model=lambda name: name == "tiny",
        list_models=lambda: ["tiny"],
        create_model=lambda name, pretrained: made.build(),
    )
    monkeypatch.setitem(sys.modules, "timm", module)
    return made


@pytest.fixture
def images(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(32) % 4)
    return str(tmp_path / "a.npz")


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.INFO, "edgespa")
    return lambda: "\n".join(f"{record.levelname}: {record.getMessage()}" for record in caplog.records)


class TestTaken:
    def test_size_mean_and_std(self, timm: SimpleNamespace, told: Callable[[], str]) -> None:
        base = Base.open("timm:tiny", None)
        assert base.input_shape == (1, 3, 8, 8)
        found = DataOptions().preprocess(base)
        assert found == Preprocess(
            height=8, width=8, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3,
            resize="crop", resize_to=(10, 10), interpolation="bicubic",
        )  # fmt: skip
        assert "NOTE: input shape: 1,3,8,8, as timm:tiny records" in told()
        assert "NOTE: normalisation: mean 0.5,0.5,0.5 and std 0.5,0.5,0.5, as timm:tiny records" in told()
        done = "resized until its shorter side is 10 (bicubic), of that the middle 8 x 8"
        assert f"NOTE: images: {done}, as timm:tiny records" in told()

    def test_what_is_given_wins(self, timm: SimpleNamespace, told: Callable[[], str]) -> None:
        base = Base.open("timm:tiny", (1, 3, 16, 12))
        found = DataOptions(**IMAGENET).preprocess(base)  # type: ignore[arg-type]
        assert (found.height, found.width, found.mean) == (16, 12, IMAGENET["mean"])
        assert (found.resize, found.resize_to) == ("crop", (20, 15))  # as much of the picture as at the recorded size
        assert "normalisation" not in told()
        assert "input shape" not in told()

    def test_what_a_task_records_wins(self, timm: SimpleNamespace) -> None:
        own = Preprocess(height=8, width=8, channels=3, mean=(0.1,) * 3, std=(0.2,) * 3)
        assert DataOptions().preprocess(Base.open("timm:tiny", None), own) == own

    def test_prune_with_images(self, timm: SimpleNamespace, images: str, tmp_path: Path) -> None:
        config = PruneConfig(method="asym-in-change", density=0.5, round_to=1)
        task = prune_to_file("timm:tiny", tmp_path / "a.spa", config, calibration=images)
        assert task.header.preprocess is not None
        assert task.header.preprocess.mean == (0.5,) * 3

    def test_adapt(self, timm: SimpleNamespace, images: str, tmp_path: Path) -> None:
        config = AdaptConfig(epochs=1, batch_size=8, lr=0.01)
        task = adapt_to_file("timm:tiny", images, tmp_path / "a.spa", config)
        assert task.header.preprocess is not None
        assert (task.header.preprocess.mean, task.header.preprocess.std) == ((0.5,) * 3, (0.5,) * 3)

    @pytest.mark.parametrize("data", [True, False])
    def test_export(self, timm: SimpleNamespace, images: str, tmp_path: Path, data: bool) -> None:
        config = ExportConfig(formats=("onnx",))
        export_bundle("timm:tiny", tmp_path / "b", config, evaluation=images if data else None)
        how = read_manifest(tmp_path / "b").preprocessing
        assert how is not None
        assert how.mean == (0.5,) * 3

    def test_a_calibration_spec_of_another_kind_is_told(
        self, timm: SimpleNamespace, told: Callable[[], str], tmp_path: Path
    ) -> None:
        (tmp_path / "own.toml").write_text('source = "x"\nmean = [0.1]\nstd = [0.2]\n')
        base = Base.open("timm:tiny", None)
        assert DataOptions().preprocess(base, calibration=str(tmp_path / "own.toml")).mean == (0.5,) * 3
        assert "WARNING: mean and std of the calibration spec" in told()

    def test_records_that_cannot_be_read(self, timm: SimpleNamespace, told: Callable[[], str]) -> None:
        class Odd(Tiny):
            def __init__(self) -> None:
                super().__init__()
                self.pretrained_cfg = {"mean": "?"}  # type: ignore[dict-item]

        timm.build = Odd
        base = Base.open("timm:tiny", (1, 3, 8, 8))
        assert base.recorded is None
        assert "WARNING: timm:tiny: what it records of its images cannot be read" in told()
        with pytest.raises(ModelError, match="not known"):
            Base.open("timm:tiny", None)


class TestNotGiven:
    def test_zero_and_one_are_told(self, toy_base: Base, told: Callable[[], str]) -> None:
        found = DataOptions().preprocess(toy_base)
        assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)
        assert "NOTE: normalisation: none given: mean 0 and std 1" in told()

    def test_nothing_is_told_of_tensors(self, toy_base: Base, told: Callable[[], str]) -> None:
        DataOptions().preprocess(toy_base, tensors=True)
        assert told() == ""

    def test_a_calibration_spec(self, toy_base: Base, told: Callable[[], str], tmp_path: Path) -> None:
        (tmp_path / "own.toml").write_text('source = "x"\nmean = [0.1]\nstd = [0.2]\n')
        assert DataOptions().preprocess(toy_base, calibration=str(tmp_path / "own.toml")).mean == (0.1,) * 3
        assert "mean 0.1 and std 0.2, of the calibration spec" in told()

    def test_half_and_bytes(self, toy_base: Base) -> None:
        with pytest.raises(ConfigError, match="--std without --mean"):
            DataOptions(std=(0.5,)).preprocess(toy_base)
        with pytest.raises(ConfigError, match="too large"):
            DataOptions(mean=(120.0,), std=(60.0,)).preprocess(toy_base)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers", reason="TRANSFORMERS ABSENT: hf: models are not tested")
    folder = tmp_path_factory.mktemp("hf") / "vit"
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8,
        num_labels=5,
    )  # fmt: skip
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    return folder


class TestTransformers:
    @pytest.mark.parametrize(
        ("settings", "mean"),
        [
            ({"image_mean": [0.4] * 3, "image_std": [0.3] * 3}, (0.4,) * 3),
            ({"image_processor_type": "ViTImageProcessor"}, (0.5,) * 3),  # its class knows them
            (None, None),
        ],
    )
    def test_a_folder(self, folder: Path, settings: dict[str, Any] | None, mean: tuple[float, ...] | None) -> None:
        path = folder / "preprocessor_config.json"
        path.unlink(missing_ok=True)
        if settings is not None:
            path.write_text(json.dumps({"size": {"height": 16, "width": 16}, "resample": 2, **settings}))
        base = Base.open(f"hf:{folder}", None)
        assert base.input_shape == (1, 3, 16, 16)
        assert base.recorded is not None
        assert (base.recorded.size, base.recorded.mean, base.recorded.otherwise) == ((3, 16, 16), mean, "")

    def test_a_damaged_file_is_told(self, folder: Path, told: Callable[[], str]) -> None:
        (folder / "preprocessor_config.json").write_text("{")
        assert Base.open(f"hf:{folder}", (1, 3, 16, 16)).recorded is None
        assert "cannot be read" in told()

    def test_nothing_is_downloaded_for_it(self, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
        """A name on the hub whose settings are not on this machine: that is told, with what fetches them."""
        hub = pytest.importorskip("transformers.utils", reason="TRANSFORMERS ABSENT: hf: models are not tested")
        asked: list[dict[str, Any]] = []
        monkeypatch.setattr(hub, "cached_file", lambda *names, **options: asked.append(options))
        core = SimpleNamespace(config=SimpleNamespace(to_dict=lambda: {"image_size": 16}))
        found = recorded("hf:someone/model", SimpleNamespace(core=core))  # type: ignore[arg-type]
        assert found == Recorded((3, 16, 16))
        assert asked
        assert all(options["local_files_only"] for options in asked)
        assert "hf download someone/model preprocessor_config.json" in told()


PROCESSORS = (
    ("vit", "ViT", {}),
    ("clip", "CLIP", {}),
    ("convnext", "ConvNext", {"size": {"shortest_edge": 224}}),
    ("convnext", "ConvNext", {}),
    ("deit", "DeiT", {}),
    ("levit", "Levit", {}),
    ("poolformer", "PoolFormer", {}),
    ("mobilevit", "MobileViT", {}),
    ("efficientnet", "EfficientNet", {"do_center_crop": True, "rescale_offset": True, "rescale_factor": 1 / 127.5}),
    ("mobilenet_v2", "MobileNetV2", {}),
    ("bit", "Bit", {}),
)


@pytest.mark.parametrize(("module", "name", "options"), PROCESSORS)
def test_as_transformers_does_it(module: str, name: str, options: dict[str, Any]) -> None:
    """Pixels are the same; numbers differ where a scale of theirs is folded into mean and std, by rounding."""
    pytest.importorskip("transformers", reason="TRANSFORMERS ABSENT: hf: models are not tested")
    found = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    theirs = getattr(found, f"{name}ImageProcessorPil")(**options)
    said = {**json.loads(json.dumps(theirs.to_dict(), default=str)), "do_normalize": bool(theirs.do_normalize)}
    own = of_transformers({}, said)
    assert own.size is not None
    assert own.mean is not None
    assert own.std is not None
    channels, height, width = own.size
    mean, std = (values * (channels // len(values)) for values in (own.mean, own.std))
    how = Preprocess(
        channels=channels, height=height, width=width, mean=mean, std=std, **own.settings.said()
    ).model_dump()
    for size in ((480, 640), (331, 500), (300, 400), (200, 333)):
        picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        wanted = np.asarray(theirs(Image.fromarray(picture))["pixel_values"][0])
        np.testing.assert_allclose(normalised(model_pixels(picture, how), how), wanted, atol=2e-6)
