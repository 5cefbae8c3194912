"""The whole way on data that needs no download: scikit-learn's handwritten digits.

A small residual network learns the digits 0 to 4 and becomes the base; SPLoRA adapts it to the digits 5 to 9 while it
is pruned; the compact program and, for comparison, an unpruned adaptation are exported, proved, and measured together.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.api.bundles import origin_of_task
from edgespa.api.demo_folder import take_folder
from edgespa.api.report_verb import report
from edgespa.bundle import Manifest
from edgespa.config import Preprocess
from edgespa.data import ImageData, load_data, prepare
from edgespa.device import connect, load_device
from edgespa.device.measure.profile import profile
from edgespa.device.measure.results import Profile
from edgespa.device.measure.saved import save_profile
from edgespa.device.measure.settings import Settings
from edgespa.errors import MissingExtraError
from edgespa.exporting.bundle import ExportConfig, export
from edgespa.objectives.evaluate import accuracy
from edgespa.system.files import write_whole
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

Progress = Callable[[float, float | None, str], None]

SPEC = "edgespa.api.demo:network"
INPUT_SHAPE = (1, 1, 16, 16)
MEAN, STD = (0.3,), (0.35,)
DENSITY = 0.4
ROUND_TO = 8
"""Its narrowest groups have 32 channels: in steps of 16 they are halved or whole, and twice the MACs are left."""
OLD_CLASSES, NEW_CLASSES = ("0", "1", "2", "3", "4"), ("5", "6", "7", "8", "9")
PRECISIONS = ("fp32", "int8")
PAGE, TITLE = "report.html", "edgespa demo: digits 5 to 9 on a network for 0 to 4"


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class DigitNet(nn.Module):
    """A residual network of three stages: input [N, 1, 16, 16], output [N, 5]."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128), blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        stages: list[nn.Module] = []
        before = widths[0]
        for index, width in enumerate(widths):
            for block in range(blocks):
                stages.append(_Block(before, width, 2 if index and not block else 1))
                before = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, len(OLD_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.stages(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


def network() -> nn.Module:
    """The demo's network, untrained; its pretrained weights lie in the demo's output folder."""
    torch.manual_seed(0)
    return DigitNet().eval()


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the demo's table; ``reference`` figures are those of the unpruned model's same variant."""

    variant: str
    size_bytes: int
    reference_size_bytes: int
    accuracy: float
    reference_accuracy: float
    error: float
    p50_ms: float
    p90_ms: float
    reference_p50_ms: float


@dataclasses.dataclass(frozen=True)
class Result:
    """What the demo made.

    Attributes:
        bundle: The compact bundle.
        unpruned: The bundle of the unpruned adaptation.
        task: The compact task.
        base_accuracy: Of the base on test images of its own digits.
        base_images: How many these are.
        test_images: On how many test images the rows' accuracies are.
        rows: The table.
        seconds: For everything.
        report: The page over all of it; None where plotly is not installed.
    """

    bundle: Path
    unpruned: Path
    task: Task
    base_accuracy: float
    base_images: int
    test_images: int
    rows: tuple[Row, ...]
    seconds: float
    report: Path | None = None


def run(output: Path, *, seed: int = 0, progress: Progress | None = None) -> Result:
    """Run the demo.

    Args:
        output: A folder for everything that it makes; what an earlier run of the demo made is replaced.
        seed: Of everything random.
        progress: Told ``(done, total, text)``, in hundredths.

    Raises:
        OutputExistsError: The folder holds something else than an earlier demo.
        OSError: Nothing can be written there.
    """
    began = time.perf_counter()
    take_folder(output)
    _, channels, height, width = INPUT_SHAPE
    preprocess = Preprocess(height=height, width=width, channels=channels, mean=MEAN, std=STD)
    train, test = load_data("digits:train"), load_data("digits:test")
    stage = _Stages(progress)

    weights = output / "base.safetensors"
    base_accuracy = _train_base(train, test, preprocess, weights, seed, stage.of(20, "base: digits 0-4"))
    base = Base.open(SPEC, INPUT_SHAPE, str(weights))
    new_train, new_test = train.select_classes(NEW_CLASSES), test.select_classes(NEW_CLASSES)
    tasks = {}
    for name, density, share in (("unpruned", 1.0, 15), ("compact", DENSITY, 12)):
        config = AdaptConfig(density=density, round_to=ROUND_TO, epochs=20, batch_size=32, seed=seed, head="new")
        report = stage.of(share, f"{name}: digits 5-9 with SPLoRA")
        tasks[name] = adapt(base, new_train, preprocess, config, output, progress=report)
        tasks[name].save(output / f"{name}.spa")

    manifests = {}
    for name, task in tasks.items():
        target = output / name
        program, origin = origin_of_task(task, base, output / f"{name}.spa")
        manifests[name] = export(
            program,
            origin,
            ExportConfig(precisions=PRECISIONS, seed=seed),
            target,
            calibration=prepare(new_train, preprocess),
            evaluation=prepare(new_test, preprocess),
            overwrite=True,
            progress=stage.of(18, f"{name}: export and prove"),
        )
    bundle, unpruned = output / "compact", output / "unpruned"
    with connect(load_device("local")) as here:
        asked = Settings(rounds=3, by_layer=True)
        measured = profile(bundle, here, asked, against=unpruned, progress=stage.of(15, "profile"))
    save_profile(measured, bundle)
    page = _report(output, stage.of(2, "report"))
    rows = _rows(manifests["compact"], manifests["unpruned"], measured)
    counts = len(test.select_classes(OLD_CLASSES)), len(new_test)
    seconds = time.perf_counter() - began
    return Result(bundle, unpruned, tasks["compact"], base_accuracy, *counts, rows, seconds, page)


def _report(output: Path, progress: Progress) -> Path | None:
    """The page over all of it; none where what draws its charts is not installed."""
    try:
        names = ("compact", "unpruned", "compact.spa", "unpruned.spa")
        return report([output / name for name in names], output=output / PAGE, title=TITLE, progress=progress).path
    except MissingExtraError:
        return None


def _train_base(
    train: ImageData, test: ImageData, preprocess: Preprocess, weights: Path, seed: int, progress: Progress
) -> float:
    """Train all weights on the old digits; returns the accuracy on their test part."""
    untrained = Base.open(SPEC, INPUT_SHAPE)
    config = AdaptConfig(adapter="full", epochs=8, batch_size=32, seed=seed, head="keep")
    old = train.select_classes(OLD_CLASSES)
    task = adapt(untrained, old, preprocess, config, weights.parent, progress=progress)
    program = task.program(untrained)
    model = network()
    model.load_state_dict(program.state(), strict=False)
    write_whole(weights, save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))
    return accuracy(program, prepare(test.select_classes(OLD_CLASSES), preprocess))


def _rows(manifest: Manifest, reference: Manifest, profile: Profile) -> tuple[Row, ...]:
    rows = []
    for variant in manifest.variants:
        other = reference.variant(variant.name)
        assert variant.accuracy is not None
        assert other.accuracy is not None
        measured = profile.result("compact", variant.name)
        rows.append(
            Row(
                variant.name,
                variant.size_bytes,
                other.size_bytes,
                variant.accuracy.value,
                other.accuracy.value,
                variant.parity.component_error or 0.0,
                measured.p50_ms,
                measured.p90_ms,
                profile.result("unpruned", variant.name).p50_ms,
            )
        )
    return tuple(rows)


class _Stages:
    """One bar over several pieces of work, each with its share of 100."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._before = 0.0

    def of(self, share: float, name: str) -> Progress:
        start = self._before
        self._before += share

        def report(done: float, total: float | None, text: str = "") -> None:
            if self._progress:
                self._progress(start + share * done / (total or 1), 100, f"{name}: {text}" if text else name)

        return report
