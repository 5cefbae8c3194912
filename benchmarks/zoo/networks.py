"""The zoo: networks of torchvision, timm and transformers with random weights, by name.

``network("timm:vit_tiny_patch16_224")`` builds one and says what it takes. The libraries are not dependencies of the
product; ``make zoo`` puts them into a folder of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


@dataclasses.dataclass
class Network:
    """A network and what it takes: ``model(*inputs)`` runs."""

    model: nn.Module | None
    inputs: tuple[Tensor, ...]

    def take(self) -> nn.Module:
        """The network, which is not held here any more: the largest fit into memory only few times."""
        model, self.model = self.model, None
        assert model is not None
        return model


# Convolutional networks take any size: a small one keeps the whole suite short. Others take the size they are made for.
_SIDE = 96
_SIDES = {"inception": 128, "nasnet": 128, "pnasnet": 128, "vit_": 224, "swin_": 224, "maxvit": 224}
# Networks with many equal blocks or large images, cut short.
_OPTIONS: dict[str, dict[str, Any]] = {
    "torchvision:googlenet": {"init_weights": False},
    "torchvision:inception_v3": {"init_weights": False},
    "torchvision:vit_h_14": {"image_size": 224},
    "timm:deepseek_vit_412m": {"depth": 2, "img_size": 224},
    "timm:gemma4_vit_167m": {"depth": 3, "img_size": 256},
    "timm:qwen3_vit_88m": {"depth": 3, "img_size": 256},
}

SEGMENTATION = (
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet101",
    "deeplabv3_resnet50",
    "fcn_resnet101",
    "fcn_resnet50",
    "lraspp_mobilenet_v3_large",
)

# One network of every family (module of timm.models), and a second where a family has quite different members.
TIMM = (
    "beit_base_patch16_224", "beitv2_base_patch16_224", "halonet26t", "botnet26t_256", "lambda_resnet26t",
    "gcresnet33ts", "gernet_s", "repvgg_a0", "mobileone_s0", "resnet33ts", "cait_xxs24_224", "coat_tiny",
    "coat_lite_tiny", "convit_tiny", "convmixer_768_32", "convnext_atto", "convnextv2_atto", "convnext_atto_rms",
    "cpubone_nano", "crossvit_tiny_240", "csatv2", "cspresnet50", "darknet53", "cspnext_tiny", "davit_tiny",
    "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "densenet121", "dla34",
    "dpn68", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "mixnet_s", "efficientnet_b0",
    "mnasnet_small", "mobilenetv2_100", "fbnetc_100", "spnasnet_100", "efficientvim_m1", "efficientvit_b0",
    "efficientvit_l1", "efficientvit_m0", "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_t8", "fastvit_mci0",
    "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnet_100", "ghostnetv2_100", "hardcorenas_a", "hgnet_tiny", "hgnetv2_b0",
    "hiera_tiny_224", "hieradet_small", "hrnet_w18_small", "iformer_t", "inception_next_atto", "inception_resnet_v2",
    "inception_v3", "inception_v4", "lcnetv2_small", "levit_128s", "lowformer_b0", "mambaout_femto",
    "maxvit_tiny_rw_224", "coatnet_nano_rw_224", "coatnext_nano_rw_224", "caformer_s18", "convformer_s18",
    "poolformer_s12", "poolformerv2_s12", "mixer_s16_224", "resmlp_12_224", "gmlp_ti16_224", "gmixer_12_224",
    "mobilenetv3_small_100", "mobilenetv4_conv_small", "mobilenetv4_hybrid_medium", "lcnet_050", "fbnetv3_b",
    "mobilenetv5_base", "mobilevit_xxs", "mobilevitv2_050", "mvitv2_tiny", "naflexvit_base_patch16_gap",
    "nasnetalarge", "nest_tiny", "nextvit_small", "nf_resnet50", "dm_nfnet_f0", "nf_regnet_b0", "pit_ti_224",
    "pnasnet5large", "pvt_v2_b0", "rdnet_tiny", "regnetx_002", "regnety_002", "regnetz_b16", "repghostnet_050",
    "repvit_m0_9", "res2net50_26w_4s", "res2next50", "resnest14d", "resnet18", "resnext50_32x4d", "seresnet50",
    "ecaresnet26t", "resnetv2_50", "resnetv2_50x1_bit", "rexnet_100", "selecsls42", "legacy_seresnet18",
    "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s1", "swiftformer_xs", "swin_tiny_patch4_window7_224",
    "swin_s3_tiny_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "tiny_vit_5m_224", "tnt_s_patch16_224",
    "tresnet_m", "twins_pcpvt_small", "twins_svt_small", "vgg11_bn", "visformer_tiny", "vit_tiny_patch16_224",
    "vit_base_patch16_siglip_224", "vit_small_patch14_dinov2", "flexivit_small", "vit_wee_patch16_reg1_gap_256",
    "vit_small_r26_s32_224", "vit_relpos_small_patch16_224", "vit_srelpos_small_patch16_224",
    "samvit_base_patch16_224", "vitamin_small_224", "volo_d1_224", "vovnet39a", "ese_vovnet19b_dw", "legacy_xception",
    "xception41", "xcit_nano_12_p16_224", "deepseek_vit_412m", "gemma4_vit_167m", "qwen3_vit_88m",
)  # fmt: skip

# Model class -> changes to the default configuration: fewer layers, all else as published.
_LAYERS = {"num_hidden_layers": 3}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": _LAYERS,
    "DeiTForImageClassification": _LAYERS,
    "DeiTForImageClassificationWithTeacher": _LAYERS,
    "BeitForImageClassification": _LAYERS | {"use_relative_position_bias": True},
    "Data2VecVisionForImageClassification": _LAYERS,
    "ViTMSNForImageClassification": _LAYERS,
    "ViTMAEModel": _LAYERS | {"mask_ratio": 0.0},
    "IJepaForImageClassification": _LAYERS,
    "Dinov2ForImageClassification": _LAYERS,
    "Dinov2WithRegistersForImageClassification": _LAYERS,
    "DINOv3ViTModel": _LAYERS | {"image_size": 224},
    "DINOv3ConvNextModel": {},
    "SwinForImageClassification": {"depths": [1, 2, 2, 1]},
    "Swinv2ForImageClassification": {"depths": [1, 2, 2, 1]},
    "FocalNetForImageClassification": {"depths": [1, 1, 2, 1]},
    "ConvNextForImageClassification": {},
    "ConvNextV2ForImageClassification": {},
    "CvtForImageClassification": {},
    "LevitForImageClassification": {},
    "MobileViTForImageClassification": {},
    "MobileViTForSemanticSegmentation": {},
    "MobileViTV2ForImageClassification": {},
    "PoolFormerForImageClassification": {},
    "PvtForImageClassification": {},
    "PvtV2ForImageClassification": {},
    "SegformerForImageClassification": {},
    "SegformerForSemanticSegmentation": {},
    "SwiftFormerForImageClassification": {},
    "HieraForImageClassification": {"depths": [1, 1, 2, 1]},
    "HGNetV2ForImageClassification": {},
    "TextNetForImageClassification": {},
    "ResNetForImageClassification": {"depths": [2, 2, 2, 2]},
    "RegNetForImageClassification": {"depths": [1, 1, 2, 1]},
    "BitForImageClassification": {"depths": [2, 2, 2, 2]},
    "MobileNetV1ForImageClassification": {},
    "MobileNetV2ForImageClassification": {},
    "EfficientNetForImageClassification": {
        "image_size": 224,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "hidden_dim": 1280,
    },
    "CLIPVisionModelWithProjection": _LAYERS,
    "SiglipVisionModel": _LAYERS,
    "YolosForObjectDetection": _LAYERS | {"image_size": [224, 224]},
    "DPTForSemanticSegmentation": {"num_hidden_layers": 12},
    "GLPNForDepthEstimation": {},
}


def names(library: str) -> tuple[str, ...]:
    """Networks of a library, as ``library:name``; empty if the library is not installed."""
    if library == "transformers":
        return tuple(f"transformers:{name}" for name in TRANSFORMERS) if _installed("transformers") else ()
    if not _installed("torchvision") or (library == "timm" and not _installed("timm")):
        return ()
    if library == "timm":
        return tuple(f"timm:{name}" for name in TIMM)
    if library == "segmentation":
        return tuple(f"segmentation:{name}" for name in SEGMENTATION)
    torchvision = import_torchvision()
    return tuple(f"torchvision:{name}" for name in torchvision.models.list_models(module=torchvision.models))


LIBRARIES = ("torchvision", "segmentation", "timm", "transformers")


def _installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


@functools.cache
def import_torchvision() -> ModuleType:
    """Import torchvision, also a build for another kind of torch, whose compiled operators cannot be loaded."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)  # its definitions go with it
    return importlib.import_module("torchvision")


_kept: list[Any] = []


def network(spec: str) -> Network:
    """Build a network of the zoo, without initial values: those are drawn by whoever measures it.

    Args:
        spec: ``torchvision:NAME``, ``segmentation:NAME``, ``timm:NAME`` or ``transformers:CLASS``.
    """
    library, _, name = spec.partition(":")
    if _installed("torchvision"):
        import_torchvision()  # transformers imports it where it is installed
    torch.manual_seed(0)
    options = _OPTIONS.get(spec, {})
    with _uninitialised():
        if library == "transformers":
            return _transformers(name)
        return _timm(name, options) if library == "timm" else _torchvision(name, options, library == "segmentation")


def _torchvision(name: str, options: dict[str, Any], segmentation: bool) -> Network:
    if segmentation:
        options = {**options, "weights_backbone": None}
    side = next((side for key, side in _SIDES.items() if name.startswith(key)), _SIDE)
    model = import_torchvision().models.get_model(name, weights=None, **options)
    return Network(model, (torch.zeros(1, 3, side, side),))


def _timm(name: str, options: dict[str, Any]) -> Network:
    model = importlib.import_module("timm").create_model(name, pretrained=False, **options)
    channels, height, width = model.pretrained_cfg["input_size"]
    if "img_size" in options:
        height = width = options["img_size"]
    elif not model.pretrained_cfg.get("fixed_input_size") and not any(
        "attn" in key for key, _ in model.named_modules()
    ):
        height = width = next((side for key, side in _SIDES.items() if name.startswith(key)), _SIDE)
    return Network(model, (torch.zeros(1, channels, height, width),))


def _transformers(name: str) -> Network:
    kind = getattr(importlib.import_module("transformers"), name)
    config = kind.config_class()
    for key, value in TRANSFORMERS[name].items():
        if not hasattr(config, key):
            raise AttributeError(f"{name}: its configuration has no {key}")
        setattr(config, key, value)
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return Network(
        kind(config), (torch.zeros(1, getattr(config, "num_channels", 3), min(height, 512), min(width, 512)),)
    )


@contextlib.contextmanager
def _uninitialised() -> Iterator[None]:
    """Skip the initialisation that every layer does, which takes longer than all else for the largest networks."""
    skipped = ("kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "normal_", "xavier_uniform_", "uniform_")
    saved = {name: getattr(nn.init, name) for name in skipped}
    try:
        for name in skipped:
            setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        yield
    finally:
        for name, function in saved.items():
            setattr(nn.init, name, function)
