"""Sizes that a network cannot take are answered with those that were meant, not in torch's words alone."""

from __future__ import annotations

import pytest
from torch import nn

from edgespa.errors import TraceError
from edgespa.models.first_layer import misfit
from edgespa.models.given import Given
from edgespa.models.inputs import InputSize
from edgespa.models.opening import open_program


@pytest.mark.parametrize(
    ("channels", "shape", "meant"),
    [
        (3, (3, 64, 48), "1,3,64,48"),
        (3, (64, 48, 3), "1,3,64,48"),
        (3, (2, 64, 48, 3), "2,3,64,48"),
        (3, (1, 1, 64, 48), "1,3,64,48"),
        (1, (1, 3, 64, 48), "1,1,64,48"),
        (1, (64, 48), "1,1,64,48"),
        (1, (1, 64, 48), "1,1,64,48"),
        (1, (1, 64, 48, 3), "1,1,64,48"),
        (13, (1, 64, 48, 13), "1,13,64,48"),
        (3, (1, 3, 64, 64, 1), "as in 1,3,224,224"),
    ],
)
def test_what_is_meant(channels: int, shape: tuple[int, ...], meant: str) -> None:
    found = misfit(nn.Sequential(nn.Identity(), nn.Conv2d(channels, 4, 3)), shape)
    assert found is not None
    assert found[0] == f"its first convolution (1) takes [N, {channels}, H, W]"
    assert meant in found[1]


def test_signals_and_volumes() -> None:
    assert "1,2,400" in misfit(nn.Conv1d(2, 4, 3), (400, 2))[1]  # type: ignore[index]
    assert "1,2,9,8,7" in misfit(nn.Conv3d(2, 4, 3), (9, 8, 7))[1]  # type: ignore[index]


def test_what_fits_is_no_misfit() -> None:
    assert misfit(nn.Conv2d(3, 4, 3), (1, 3, 9, 9)) is None
    assert misfit(nn.Linear(3, 4), (3,)) is None


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8, 3), (1, 8, 8, 3), (1, 1, 8, 8)])
def test_opening_says_it(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    with pytest.raises(TraceError, match="does not take an input of") as caught:
        open_program(Given(model), (InputSize(shape),), None)
    assert caught.value.hint is not None
    assert "did you mean --input-shape 1,3,8,8?" in caught.value.hint


def test_another_fault_keeps_its_own_words() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.conv(x) if float(x.sum()) > 0 else x

    with pytest.raises(TraceError) as caught:
        open_program(Given(Odd().eval()), (InputSize((1, 3, 8, 8)),), None)
    assert "did you mean" not in str(caught.value.hint)
