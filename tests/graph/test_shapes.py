"""Tensors that do not fit are refused where shapes are followed; that these are right is in `test_law.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgespa.graph.program import assign
from edgespa.graph.shapes import follow


@pytest.mark.parametrize("name", ["residual", "attention", "lstm"])
def test_tensors_that_do_not_fit(zoo: Any, name: str) -> None:
    program = zoo(name).program.copy()
    tensor = next(tensor for key, tensor in program.tensors() if key.endswith("weight") and tensor.dim() > 1)
    first = next(key for key, value in program.tensors() if value is tensor)
    assign(program.module, first, tensor.detach()[:, :-1].clone())
    with pytest.raises((RuntimeError, ValueError)):
        follow(program.module, {})


def test_vectors_of_a_norm_that_do_not_fit(zoo: Any) -> None:
    program = zoo("residual").program.copy()
    assign(program.module, "n.running_var", torch.ones(7))
    with pytest.raises((RuntimeError, ValueError)):
        follow(program.module, {})
