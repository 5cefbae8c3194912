"""A class for each pixel: from folders of photographs and masks to files with a mean intersection over union."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgespa.adaptation.augment import augmentation
from edgespa.adaptation.config import AdaptConfig
from edgespa.api.bundles import export_bundle
from edgespa.api.options import DataOptions
from edgespa.api.tasks import adapt_to_file, prune_to_file
from edgespa.config import Preprocess
from edgespa.data import load_data, prepare
from edgespa.data.answers import IGNORED
from edgespa.errors import ConfigError, DataError
from edgespa.exporting.config import ExportConfig
from edgespa.graph.surgery import head_tensors
from edgespa.objectives.evaluate import evaluate
from edgespa.objectives.segmentation import Segmentation
from edgespa.pruning.config import PruneConfig
from edgespa.tasks.base import Base

SIDE = 16
PREPROCESS = Preprocess(height=SIDE, width=SIDE, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.head, self.side = nn.Conv2d(24, classes, 1), nn.Conv2d(16, classes, 1)

    def forward(self, x):
        low = self.stem(x)
        y = self.head(self.body(low)) + self.side(low)
        return {"out": nn.functional.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)}

net = lambda: Net(5)
three = lambda: Net(3)
"""


def write(folder: Path, count: int = 40, seed: int = 0) -> Path:
    """A bright square, a dark one, and a border that nobody labelled, on a grey ground."""
    random = np.random.default_rng(seed)
    for number in range(count):
        picture = random.normal(110, 8, (SIDE + 4, SIDE, 3))
        mask = np.zeros((SIDE + 4, SIDE), np.uint8)
        for label, level in ((1, 220), (2, 20)):
            top, left = random.integers(0, 10, 2)
            picture[top : top + 8, left : left + 6] = random.normal(
                level, 8, picture[top : top + 8, left : left + 6].shape
            )
            mask[top : top + 8, left : left + 6] = label
        mask[0] = 3
        for name, pixels in (("images", picture.clip(0, 255).astype(np.uint8)), ("masks", mask)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    (folder / "classes.txt").write_text("0: ground\n1: bright\n2: dark\n3: void\n")
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    write(tmp_path / "d")
    return tmp_path


def test_masks_at_the_models_size(place: Path) -> None:
    data = load_data("d")
    assert (data.kind, data.classes, len(data)) == ("segmentation", ("ground", "bright", "dark"), 40)
    prepared = prepare(data, PREPROCESS)
    slow = prepare(data, PREPROCESS, cache_bytes=0)
    for (images, masks), (same, alike) in zip(prepared.batches(7), slow.batches(7), strict=True):
        assert torch.equal(images, same)
        assert torch.equal(masks, alike)
        assert masks.shape == (len(images), SIDE, SIDE)
        assert set(masks.unique().tolist()) <= {0, 1, 2, IGNORED}
        assert bool((masks[:, 0] == IGNORED).all())
        bright = images.mean(1)[masks == 1].mean()
        assert bright > 0.5 > images.mean(1)[masks == 2].mean()


@pytest.mark.parametrize("names", [("flip",), ("crop",), ("colour",), ("flip", "crop", "colour")])
def test_masks_go_where_their_images_go(place: Path, names: tuple[str, ...]) -> None:
    prepared = prepare(load_data("d"), PREPROCESS)
    changed = augmentation(names)
    assert changed is not None
    plain = torch.cat([masks for _, masks in prepared.batches(8, shuffle_seed=1)])
    moved = []
    for images, masks in prepared.batches(8, shuffle_seed=1, augment=changed):
        level = images.mean(1)
        assert level[masks == 1].mean() > 0.4 > -0.3 > level[masks == 2].mean()
        moved.append(masks)
    assert torch.equal(torch.cat(moved), plain) == (not changed.moves)
    alone = changed(torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8), torch.Generator().manual_seed(5))
    both = changed.with_masks(
        torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8),
        torch.arange(64).reshape(1, 8, 8),
        torch.Generator().manual_seed(5),
    )
    assert torch.equal(both[0], alone)  # the same draws as without masks
    if "colour" not in names:
        assert torch.equal(both[0][0, 0].long(), both[1][0])


def test_an_augmentation_of_images_alone_is_refused(place: Path) -> None:
    with pytest.raises(DataError, match="moves images alone"):
        list(prepare(load_data("d"), PREPROCESS).batches(4, augment=lambda images, _: images))


def test_the_measures_by_hand() -> None:
    masks = torch.tensor([[[0, 0, 1], [1, 1, IGNORED]]])
    answers = torch.tensor([[[0, 1, 1], [1, 0, 2]]])
    scores = torch.nn.functional.one_hot(answers, 3).movedim(-1, 1).float()
    objective = Segmentation()
    miou, accuracy = objective.values(objective.sums(scores, masks), None)
    assert miou == pytest.approx((1 / 3 + 2 / 4) / 2)  # class 2 is nowhere
    assert accuracy == pytest.approx(3 / 5)
    assert objective.blind(objective.sums(scores, masks), None) == pytest.approx((3 / 5 + 0) / 2)
    nothing = torch.full((1, 2, 3), IGNORED)
    assert float(objective.loss(scores, nothing)) == 0
    assert objective.mass(nothing) == 0


def test_heads_that_are_convolutions(place: Path) -> None:
    base = Base.open("nets.py:net", (1, 3, SIDE, SIDE))
    assert set(head_tensors(base.program)) == {"head.weight", "head.bias", "side.weight", "side.bias"}
    assert base.outputs() == 5
    other = base.with_outputs(7, seed=1)
    (inputs,) = base.program.example_inputs()
    assert other.program(inputs)["out"].shape == (2, 7, SIDE, SIDE)
    weights = dict(other.program.tensors())
    assert float(weights["head.weight"].detach().abs().max()) <= 24**-0.5  # of what one output reads
    assert float(weights["side.bias"].detach().abs().max()) == 0


@pytest.mark.law(1)
@pytest.mark.parametrize("adapter", ["full", "splora"])
def test_the_whole_way(place: Path, adapter: str) -> None:
    test = write(place / "test", 12, seed=9)
    config = AdaptConfig(
        adapter=adapter, rank=8, epochs=8, batch_size=8, density=0.6, round_to=1, augment=("flip",), store="fp32",
        class_weights="balanced", label_smoothing=0.05,
    )  # fmt: skip
    options = DataOptions(mean=(0.5,), std=(0.5,))
    task = adapt_to_file(
        "nets.py:net", "d", place / "t.spa", config, input_shape=(1, 3, SIDE, SIDE), options=options,
        evaluation=str(test),
    )  # fmt: skip
    metrics = task.header.metrics
    assert task.header.classes == ("ground", "bright", "dark")
    assert task.header.provenance["learns"] == "segmentation"
    assert task.header.figures.channel_density < 0.7
    assert metrics["test_miou"] > 0.6
    assert metrics["test_pixelaccuracy"] > metrics["test_miou"]
    config = ExportConfig(formats=("onnx", "tflite"), precisions=("fp32",))
    manifest = export_bundle("t.spa", place / "b", config, evaluation=str(test), options=options)
    assert manifest.learns == "segmentation"
    assert (place / "b" / "labels.txt").read_text().split() == ["ground", "bright", "dark"]
    for variant in manifest.variants:
        assert variant.accuracy is not None
        assert variant.agreement is not None
        assert (variant.accuracy.measure, variant.accuracy.count) == ("miou", 12)
        assert variant.accuracy.value == pytest.approx(metrics["test_miou"], abs=1e-3)
        assert variant.accuracy.others == pytest.approx({"pixelaccuracy": metrics["test_pixelaccuracy"]}, abs=1e-3)
        assert variant.agreement.value > 0.99
    card = (place / "b" / "README.md").read_text()
    assert "mIoU" in card
    assert "a class for each pixel" in card


def test_batches_that_are_put_together_are_one(place: Path) -> None:
    """Two of 8 train as one of 16: class weights and unlabelled pixels count over both."""

    def learned(batch: int, accumulate: int) -> dict[str, torch.Tensor]:
        config = AdaptConfig(
            adapter="full", epochs=1, batch_size=batch, accumulate=accumulate, class_weights="balanced", lr=1e-3,
            freeze_norms=True, validation=0.2,
        )  # fmt: skip
        output = place / f"{batch}.spa"
        task = adapt_to_file(
            "nets.py:three", "d", output, config, input_shape=(1, 3, SIDE, SIDE), options=DataOptions((0.5,), (0.5,))
        )
        return dict(task.tensors)

    one, two = learned(16, 1), learned(8, 2)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=2e-5)


def test_what_does_not_fit_is_told_before_anything_long(place: Path, toy_folder: Path) -> None:
    options = DataOptions((0.5,), (0.5,))
    classifier, shape = f"{toy_folder / 'net.py'}:build", (1, 3, 8, 8)
    with pytest.raises((ConfigError, DataError), match=r"gives \[N, 4\]"):
        adapt_to_file(classifier, "d", place / "c.spa", AdaptConfig(batch_size=8), input_shape=shape, options=options)
    with pytest.raises(DataError, match="cannot be compared"):
        prune_to_file(
            "nets.py:net", place / "p.spa", PruneConfig(method="l1", density=0.5), input_shape=(1, 3, SIDE, SIDE),
            options=options, evaluation="d",
        )  # fmt: skip


def test_relevance_begins_at_the_class_of_each_pixel(place: Path) -> None:
    task = adapt_to_file(
        "nets.py:net", "d", place / "c.spa",
        AdaptConfig(criterion="lrp", batch_size=8, epochs=2, lr=1e-3, density=0.6, round_to=1),
        input_shape=(1, 3, SIDE, SIDE), options=DataOptions((0.5,), (0.5,)),
    )  # fmt: skip
    assert task.header.figures.channel_density < 0.7


def test_pruning_by_what_is_lost(place: Path) -> None:
    options = DataOptions((0.5,), (0.5,))
    for settings, more in (
        ({"method": "act-grad"}, {"calibration": "d"}),
        ({"method": "asym-in-change", "allocation": "equal-accuracy"}, {"calibration": "d", "held_out": "d"}),
    ):
        task = prune_to_file(
            "nets.py:three", place / "p.spa", PruneConfig(density=0.6, **settings), input_shape=(1, 3, SIDE, SIDE),
            options=options, evaluation="d", overwrite=True, **more,
        )  # fmt: skip
        assert task.header.figures.channel_density < 0.7
        assert 0 <= task.header.metrics["test_miou"] <= 1
        assert "base_test_miou" in task.header.metrics


def test_batches_are_as_small_as_their_outputs_are_large(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Base.open("nets.py:three", (1, 3, SIDE, SIDE))
    data = prepare(load_data("d"), PREPROCESS)
    whole = evaluate(base.program, data)
    monkeypatch.setattr("edgespa.objectives.evaluate.MOST_BYTES", 3 * 4 * 3 * SIDE * SIDE)
    from edgespa.objectives.evaluate import batch_size

    assert batch_size(base.program) == 3
    assert evaluate(base.program, data, batch=3).values == pytest.approx(whole.values, abs=1e-3)


def _colours(masks: list[np.ndarray]) -> None:
    for index, mask in enumerate(masks):
        masks[index] = np.stack([mask * 80] * 3, -1).astype(np.uint8)


def _too_many(masks: list[np.ndarray]) -> None:
    masks[3][2, 2] = 9


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(_colours, "mask of colours"), (_too_many, "mask 3 has the value 9, and 4 classes are named")],
)
def test_masks_that_are_no_classes(place: Path, spoil: Callable[[list[np.ndarray]], None], message: str) -> None:
    files = sorted((place / "d" / "masks").iterdir())
    masks = [np.asarray(Image.open(file)).copy() for file in files]
    spoil(masks)
    for file, mask in zip(files, masks, strict=True):
        Image.fromarray(mask).save(file)
    with pytest.raises(DataError, match=message):
        load_data("d")


@pytest.mark.parametrize("how", [{"resize": "crop", "resize_to": (20, 20)}, {"resize": "letterbox"}, {}], ids=str)
def test_masks_land_where_their_images_land(place: Path, how: dict[str, object]) -> None:
    preprocess = Preprocess(**PREPROCESS.model_dump(exclude=set(how)), **how)  # type: ignore[arg-type]
    images, masks = next(prepare(load_data("d"), preprocess).batches(40))
    level = images.mean(1)
    assert level[masks == 1].mean() > 0.4 > -0.3 > level[masks == 2].mean()
    padded = (masks == IGNORED).float().mean()
    assert (padded > 0.15) == (how.get("resize") == "letterbox")  # what shows no picture counts nowhere


@pytest.mark.parametrize("turned", [False, True])
def test_a_mask_of_another_size_than_its_image_is_refused(place: Path, turned: bool) -> None:
    """Of one pair among many; also where the image is stored turned and its mask lies as it is stored."""
    photograph, mask = place / "d" / "images" / "007.png", place / "d" / "masks" / "007.png"
    if turned:
        image = Image.open(photograph)
        exif = image.getexif()
        exif[274] = 6
        image.save(photograph, exif=exif)
    else:
        Image.open(mask).resize((8, 8), Image.Resampling.NEAREST).save(mask)
    with pytest.raises(DataError, match=r"007.png is \d+ x \d+, its image"):
        load_data("d")
