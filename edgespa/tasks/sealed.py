"""Safetensors files with a text beside the tensors, sealed by a digest: a damaged copy is refused, not used.

The metadata holds the text under a key of the caller's choice. The tensor ``seal`` holds the 32 bytes of SHA-256 over
the text, a newline, and the digest of the other tensors (`edgespa.models.state_digest`). It is a tensor because
safetensors writes metadata of several keys in any order, and the same content should be the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from edgespa.models.weights import state_digest

SEAL = "seal"


def to_bytes(key: str, text: str, tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a sealed file.

    Args:
        key: Under which the text stands; it tells one kind of file from another.
        text: Anything.
        tensors: By name, none of which is `SEAL`.
    """
    # In memory of their own: safetensors refuses tensors that share some.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save({**plain, SEAL: _seal(text, plain)}, {key: text})


def read(path: Path, key: str) -> tuple[str, dict[str, Tensor]]:
    """Text and tensors of a sealed file.

    Raises:
        KeyError: If it is a whole safetensors file, but of another kind.
        ValueError: If it is no safetensors file, or damaged.
        OSError: If it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if key not in metadata:
                raise KeyError(key)
            # In memory of their own: a file that is overwritten later must not change what was checked.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, AttributeError, RuntimeError, TypeError) as error:  # all but the first: odd dtypes, sizes
        raise ValueError(str(error)) from error
    seal = tensors.pop(SEAL, None)
    if seal is None or not torch.equal(seal, _seal(metadata[key], tensors)):
        raise ValueError("its content is not what its digest says")
    return metadata[key], tensors


def _seal(text: str, tensors: Mapping[str, Tensor]) -> Tensor:
    content = f"{text}\n{state_digest(tensors)}".encode("utf-8", errors="surrogatepass")
    return torch.tensor(list(hashlib.sha256(content).digest()), dtype=torch.uint8)
