"""What is measured: networks, their tasks and budgets, and every row in the order of measuring."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

IMAGES = 10_000
EPOCHS, LONG = 6, 18
# Of the arithmetic of training: where a processor has it, the same accuracies in three quarters of the time.
PRECISION = "bf16"
SEEDS = (0, 1, 2)
DENSITIES = (1.0, 0.3, 0.1)
LOW = DENSITIES[1:]
UNPRUNED = "unpruned"
CRITERIA = ("l1", "gradient", "taylor-activation", "lrp", "geometric-median", "random")


@dataclasses.dataclass(frozen=True)
class Network:
    """A pretrained network and the task that it learns.

    Attributes:
        name: In rows and tables.
        factory: In the data folder's ``models.py``.
        size: Height and width of its input.
        data: In the data folder; ``train`` is learned, ``test`` measured on.
        mean: Of the input.
        std: Of the input.
        title: For people.
        lr: Peak learning rates by kind.
        options: Of every training.
    """

    name: str
    factory: str
    size: int
    data: str
    mean: str
    std: str
    title: str
    lr: dict[str, float]
    options: tuple[str, ...] = ()

    def model(self, data: Path) -> tuple[str, ...]:
        """Arguments that name the network."""
        return f"{data}/models.py:{self.factory}", "--input-shape", f"1,3,{self.size},{self.size}"


RESNET = Network(
    "resnet56", "resnet56", 32, "fashion", "0.485,0.456,0.406", "0.229,0.224,0.225",
    "ResNet-56 (JPEG-CIFAR) to Fashion-MNIST", {"full": 1e-2, "splora": 2e-2, "lora": 2e-2, "splopa": 3e-2},
)  # fmt: skip
MOBILENET = Network(
    "mobilenet_v2", "mobilenet_v2", 96, "cifar10_jpeg.zip", "0.5", "0.5",
    "MobileNetV2 (ImageNet) to JPEG-CIFAR-10 at 96 x 96", {"full": 3e-4, "splora": 2e-3, "lora": 2e-3},
    ("--norms", "add"),
)  # fmt: skip
NETWORKS = {each.name: each for each in (RESNET, MOBILENET)}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row: everything that it depends on."""

    network: str
    adapter: str
    density: float
    rank: int = 8
    kernel: str = "centre"
    criterion: str = "taylor"
    round_to: int = 1
    seed: int = 0
    epochs: int = EPOCHS
    images: int = IMAGES
    options: tuple[str, ...] = ()

    @property
    def key(self) -> dict[str, Any]:
        """As it stands in a row."""
        return {**dataclasses.asdict(self), "options": list(self.options)}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The setting of a row."""
        values = {field.name: row[field.name] for field in dataclasses.fields(cls)}
        return cls(**{**values, "options": tuple(values["options"])})

    def with_seed(self, seed: int) -> Self:
        """The same with another seed."""
        return dataclasses.replace(self, seed=seed)

    @property
    def unpruned(self) -> Self:
        """The same method with all channels and without options."""
        return dataclasses.replace(self, density=1.0, criterion="taylor", round_to=1, options=())

    @property
    def label(self) -> str:
        """A file name."""
        parts = [self.network, self.method, f"{self.density:g}", self.criterion, f"to{self.round_to}"]
        parts += [f"e{self.epochs}", f"n{self.images}", f"s{self.seed}"]
        return "-".join([*parts, *(each.strip("-").replace("=", "_") for each in self.options)])

    @property
    def method(self) -> str:
        """Adapter, rank and kernel, in short."""
        if self.adapter in ("full", "splopa"):
            return self.adapter
        return f"{self.adapter}-r{self.rank}" + ("-full-kernel" if self.kernel == "full" else "")

    @property
    def _sizes(self) -> tuple[str, ...]:
        """Of those adapters that have them."""
        rank = ("--rank", str(self.rank)) if self.adapter in ("splora", "lora", "repadapter") else ()
        return (*rank, *(("--kernel", self.kernel) if self.adapter in ("splora", "splopa") else ()))

    def arguments(self, data: Path, work: Path) -> tuple[str, ...]:
        """Arguments of ``edgespa adapt``; the option value ``unpruned`` is the task file of ``unpruned``."""
        network = NETWORKS[self.network]
        whole = work / f"{self.unpruned.label}.spa"
        more = (*network.options, *(str(whole) if each == UNPRUNED else each for each in self.options))
        return (
            *network.model(data), "--data", f"{data}/{network.data}:train", "--limit", str(self.images),
            "--mean", network.mean, "--std", network.std, "--adapter", self.adapter, *self._sizes,
            "--criterion", self.criterion, "--density", str(self.density),
            "--round-to", str(self.round_to), "--epochs", str(self.epochs), "--seed", str(self.seed),
            "--mixed-precision", PRECISION, "--lr", str(network.lr[self.adapter]), *more,
        )  # fmt: skip


def main_table(network: str, seed: int) -> Iterator[Setting]:
    """One network and seed of the main table."""
    for density in DENSITIES:
        yield Setting(network, "splora", density, seed=seed)
        yield Setting(network, "full", density, seed=seed)
        yield Setting(network, "splora", density, rank=32, seed=seed)
    yield Setting(network, "splora", DENSITIES[1], round_to=8, seed=seed)
    yield Setting(network, "lora", 1.0, seed=seed)


def second_table() -> Iterator[Setting]:
    """Criteria, SPLoPA, and what of the kernel is adapted; ResNet-56, one seed. Taylor is in the main table."""
    for criterion in CRITERIA:
        for density in LOW:
            for adapter in ("splora", "full"):
                yield Setting(RESNET.name, adapter, density, criterion=criterion)
    for density in DENSITIES:
        yield Setting(RESNET.name, "splopa", density)
        yield Setting(RESNET.name, "splora", density, kernel="full")
    yield Setting(RESNET.name, "splopa", 1.0, options=masked("magnitude"))


def reasons() -> Iterator[Setting]:
    """What might bring SPLoRA up to fine-pruning at 10% of the channels; ResNet-56, one seed.

    The full kernel at the usual learning rate is in the second table. Distillation is from each method's own unpruned
    task.
    """
    few = Setting(RESNET.name, "splora", DENSITIES[-1])
    for lr in ("0.005", "0.01", "0.04"):
        yield dataclasses.replace(few, options=("--lr", lr))
    yield dataclasses.replace(few, kernel="full", options=("--lr", "0.01"))
    yield dataclasses.replace(few, kernel="full", rank=32)
    yield dataclasses.replace(few, options=("--lr-restart",))
    for adapter in ("splora", "full"):
        yield dataclasses.replace(few, adapter=adapter, options=("--distill", UNPRUNED))
        yield dataclasses.replace(few, adapter=adapter, epochs=LONG)


def folded() -> Iterator[Setting]:
    """MobileNetV2 as it comes, without the batch norms that its other rows get back; one seed."""
    for density in DENSITIES:
        for adapter in ("splora", "full"):
            yield Setting(MOBILENET.name, adapter, density, options=("--norms", "keep"))


def masked(mask: str, density: float = 0.3) -> tuple[str, ...]:
    """Options of SPLoPA with block masks."""
    values = (f"mask={mask}", f"block_density={density}")
    return tuple(part for value in values for part in ("--adapter-option", value))


def every() -> Iterator[Setting]:
    """All rows, in the order in which they are measured."""
    yield from main_table(RESNET.name, 0)
    yield from reasons()
    yield from main_table(MOBILENET.name, 0)
    yield from folded()
    yield from second_table()
    for seed in SEEDS[1:]:
        yield from main_table(RESNET.name, seed)
        yield from main_table(MOBILENET.name, seed)


def quick() -> Iterator[Setting]:
    """A slice of ten minutes: the same code, too few images and epochs to compare methods by."""
    for adapter, density in (("full", 1.0), ("full", 0.3), ("splora", 1.0), ("splora", 0.3), ("splora", 0.1)):
        yield Setting(RESNET.name, adapter, density, epochs=2, images=1500)
    yield Setting(MOBILENET.name, "splora", 0.3, epochs=4, images=1500)
