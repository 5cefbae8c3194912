"""Which operators a stranger's program may hold: those that compute a result from their arguments and do nothing else.

``torch.ops`` has thousands, among them some that map a file for writing, start processes, print, or change what is
global. So none is admitted that is not known to be harmless, by its schema:

- it is one of ``aten`` or ``prims`` with a kernel (what only TorchScript knows has none), or of a few of torchvision;
- it takes tensors, numbers and plain words only: no storage, stream, custom object or list of anything;
- it writes to none of its arguments; or it is the in-place form of such an operator and writes to its first alone;
- it is public, or one of the private ones that exported programs are made of;
- it is none of those that are told apart by nothing but their name: `_REFUSED`.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from typing import Any

import torch

_TYPE = re.compile(
    r"(Optional\[)?(List\[)?(Optional\[)?(Tensor|number|int|float|bool|complex|str|Device|AnyEnumType)\]*"
    r"|Optional\[Generator\]"
)
_REFUSED = re.compile(
    r"from_file|segment_reduce|get_gradients|record_stream|retains_grad|output_nr|set|set_data|data|resize\w*|pin_memory"
    r"|(cudnn|miopen|mkldnn|mps|fbgemm|quantized|inductor|lstm_mps)_\w+|to_mkldnn|\w*sparse\w*|\w*backward\w*|hspmm|smm"
    r"|rng_\w+|device_put|convolution_overrideable|result_type|can_cast|promote_types|is_vulkan_available|sspaddmm"
)
_PRIVATE = frozenset(
    {
        "__and__", "__iand__", "__ior__", "__ixor__", "__lshift__", "__or__", "__rshift__", "__xor__",
        "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_assert_async", "_assert_scalar", "_assert_tensor_metadata",
        "_batch_norm_no_update", "_cast_Byte", "_cast_Char", "_cast_Double", "_cast_Float", "_cast_Half", "_cast_Int",
        "_cast_Long", "_cdist_forward", "_chunk_cat", "_conj", "_conj_copy", "_conj_physical", "_convolution",
        "_convolution_mode", "_efficientzerotensor", "_embedding_bag", "_embedding_bag_forward_only", "_euclidean_dist",
        "_fft_c2c", "_fft_c2r", "_fft_r2c", "_functional_assert_async", "_functional_assert_scalar", "_int_mm",
        "_is_all_true", "_is_any_true", "_linalg_check_errors", "_linalg_det", "_linalg_eigh", "_linalg_eigvals",
        "_linalg_slogdet", "_linalg_solve_ex", "_linalg_svd", "_local_scalar_dense", "_log_softmax", "_logcumsumexp",
        "_lu_with_info", "_masked_softmax", "_native_batch_norm_legit_no_training", "_native_multi_head_attention",
        "_neg_view", "_pad_circular", "_pad_enum", "_pdist_forward", "_prelu_kernel", "_reshape_alias", "_reshape_copy",
        "_safe_softmax", "_scaled_dot_product_attention_math", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention", "_shape_as_tensor",
        "_softmax", "_stack", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "_to_copy",
        "_transform_bias_rescale_qkv", "_transformer_encoder_layer_fwd", "_trilinear", "_unsafe_index",
        "_unsafe_masked_index", "_unsafe_view",
        "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
        "_upsample_nearest_exact3d", "_weight_norm", "_weight_norm_interface",
    }
)  # fmt: skip
_TORCHVISION = frozenset({"nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"})
_ARITHMETIC = frozenset(
    {
        "getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "abs", "eq", "ne", "lt", "le", "gt", "ge",
        "and_", "or_", "not_", "index", "pos", "pow",
    }
)  # fmt: skip
_MATHS = frozenset({"ceil", "floor", "trunc", "sqrt", "log", "log2", "exp", "sin", "cos", "tan", "isfinite", "isnan"})
_FLAGS = ("training", "train", "use_input_stats", "is_training")
_STATISTICS = ("running_mean", "running_var")

NUMBERS = frozenset(
    {
        *(getattr(operator, name) for name in _ARITHMETIC),
        *(getattr(math, name) for name in _MATHS),
        *(abs, bool, float, int, max, min, pow, round, sum),
        *(torch.sym_float, torch.sym_int, torch.sym_max, torch.sym_min, torch.sym_not),
    }
)
"""What a graph calls on plain numbers."""


def operator_named(text: str) -> Any:
    """The operator that a saved program calls by a name, found without following any other attribute.

    Args:
        text: Such as ``torch.ops.aten.conv2d.default``, ``_operator.getitem``, ``torch.sym_max``.

    Returns:
        What it names, if a stranger's program may hold it; else None.
    """
    if match := re.fullmatch(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)", text):
        return _overload(*match.groups())
    if match := re.fullmatch(r"torch\.ops\.higher_order\.(\w+)", text):
        return getattr(torch.ops.higher_order, match[1]) if match[1] in _REGIONS else None
    if match := re.fullmatch(r"_operator\.(\w+)", text):
        return getattr(operator, match[1]) if match[1] in _ARITHMETIC else None
    if match := re.fullmatch(r"math\.(\w+)", text):
        return getattr(math, match[1]) if match[1] in _MATHS else None
    if match := re.fullmatch(r"torch\.(_?sym_\w+)", text):
        return getattr(torch, match[1], None)
    return None


_REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "cond")


@functools.cache
def _overload(namespace: str, name: str, overload: str) -> torch._ops.OpOverload | None:
    if namespace not in ("aten", "prims", "torchvision"):
        return None
    packet = getattr(getattr(torch.ops, namespace), name, None)
    found = getattr(packet, overload, None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
    return found if isinstance(found, torch._ops.OpOverload) and is_harmless(found) else None


@functools.cache
def is_harmless(target: torch._ops.OpOverload) -> bool:
    """Whether an operator does nothing but compute from its arguments, or write the result into the first of them."""
    schema, namespace = target._schema, target.namespace
    name = schema.name.partition("::")[2]
    plain = name.removesuffix("_") if schema.is_mutable else name
    full = f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name
    if not torch._C._dispatch_has_kernel(full):
        return False
    if namespace == "torchvision":
        return name in _TORCHVISION
    if namespace not in ("aten", "prims") or _REFUSED.fullmatch(plain):
        return False
    if name.startswith("_") and name not in _PRIVATE:
        return False
    if not all(_TYPE.fullmatch(str(argument.type)) for argument in schema.arguments):
        return False
    return not schema.is_mutable or _is_in_place(name, schema)


def _is_in_place(name: str, schema: Any) -> bool:
    """Whether it is ``add_`` and the like; one with a place of its own for the result (``out``) is not."""
    written = [argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments]
    in_place = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
    return in_place and written[0] and not any(written[1:])


def writes_nothing(target: torch._ops.OpOverload, arguments: dict[str, Any]) -> bool:
    """Whether a call of an operator changes none of its arguments, also not such as its schema keeps quiet about.

    Batch and instance norms update their running statistics while they train.

    Args:
        target: The operator.
        arguments: By name, those that have their defaults may be missing.
    """
    if target._schema.is_mutable or not is_harmless(target):
        return False
    names = {argument.name for argument in target._schema.arguments}
    trains = any(flag in names and arguments.get(flag) is not False for flag in _FLAGS)
    return not trains or all(name in names and arguments.get(name) is None for name in _STATISTICS)
