"""On a real network: what the paper claims, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespa.config import Preprocess
from edgespa.data import load_data, prepare
from edgespa.objectives.evaluate import accuracy
from edgespa.pruning import PruneConfig, prune
from edgespa.tasks.base import Base

PREPROCESS = Preprocess(height=32, width=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.more
@pytest.mark.slow
def test_new_weights_and_the_choice_of_units_keep_a_resnet_alive(data_dir: Path, tmp_path: Path) -> None:
    base = Base.open(f"{data_dir / 'models.py'}:resnet20", (1, 3, 32, 32))
    images = f"{data_dir / 'cifar10_jpeg.zip'}"
    calibration = prepare(load_data(f"{images}:train").limit(128, 0), PREPROCESS)
    test = prepare(load_data(f"{images}:test").limit(500, 0), PREPROCESS)

    def kept(method: str, reweight: bool) -> float:
        # about half of the first convolutions of every block
        config = PruneConfig(
            density=0.75, method=method, allocation="uniform", reweight=reweight, round_to=1, only=("layer*.*.bn1",)
        )
        task = prune(base, config, tmp_path, data=calibration)
        return accuracy(task.program(base), test)

    whole = accuracy(base.program, test)
    ours, old = kept("asym-in-change", True), kept("l1", False)
    assert whole > 0.75
    assert ours > whole - 0.25
    assert ours > old + 0.1
