"""From images to batches: sizes, channels, normalisation, order."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edgespa.config import Preprocess
from edgespa.data import ImageData, ImageSource, Prepared, fit_image, load_data, prepare
from edgespa.data.arrays import ArraySource
from edgespa.errors import DataError


def _preprocess(height: int, width: int, channels: int = 3) -> Preprocess:
    mean, std = (0.485, 0.456, 0.406, 0.5)[:channels], (0.229, 0.224, 0.225, 0.25)[:channels]
    return Preprocess(height=height, width=width, channels=channels, mean=mean, std=std)


def _images(count: int, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def _data(images: NDArray[np.uint8], classes: int = 2) -> ImageData:
    labels = np.arange(len(images), dtype=np.int64) % classes
    return ImageData(ArraySource(images), labels, [str(k) for k in range(classes)], "made")


class _OneByOne(ImageSource):
    """Images that are not in one array, and how they were read."""

    def __init__(self, images: NDArray[np.uint8], broken: int | None = None, seconds: float = 0) -> None:
        self.images, self.broken, self.seconds = images, broken, seconds
        self.reads: list[int] = []
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> NDArray[np.uint8]:
        time.sleep(self.seconds)
        self.reads.append(index)
        self.threads.add(threading.current_thread().name)
        if index == self.broken:
            raise DataError(f"image {index} is broken", "mend it")
        image: NDArray[np.uint8] = self.images[index]
        return image


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("given", [1, 3, 4])
@pytest.mark.parametrize("size", [(6, 5), (9, 11), (3, 2)])
def test_equal_to_pillow_and_numpy(given: int, channels: int, size: tuple[int, int]) -> None:
    """What a stand-alone runner does, bit for bit, by every way through the code."""
    images, preprocess = _images(5, 6, 5, given), _preprocess(*size, channels)
    expected = []
    for image in images:
        picture = Image.fromarray(image.squeeze(2) if given == 1 else image)
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        if given == 4 and channels != 4:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        picture = picture if picture.mode == mode else picture.convert(mode)
        if picture.size != (size[1], size[0]):
            picture = picture.resize((size[1], size[0]), Image.BILINEAR)  # type: ignore[attr-defined]
        pixels = np.atleast_3d(np.asarray(picture)).astype(np.float32) / np.float32(255)
        normal = (pixels - np.array(preprocess.mean, np.float32)) / np.array(preprocess.std, np.float32)
        expected.append(normal.transpose(2, 0, 1))
    wanted = torch.from_numpy(np.stack(expected))
    one_by_one = ImageData(_OneByOne(images), np.zeros(5, dtype=np.int64), ["0"], "made")
    for prepared in (
        prepare(_data(images), preprocess),
        prepare(one_by_one, preprocess),
        prepare(one_by_one, preprocess, cache_bytes=0),
    ):
        assert torch.equal(prepared.tensor(range(5)), wanted)
        assert torch.equal(torch.cat([batch for batch, _ in prepared.batches(2)]), wanted)


def test_resizing_keeps_the_whole_image_and_its_orientation() -> None:
    image = np.zeros((2, 4, 1), dtype=np.uint8)
    image[0, :, 0] = 200
    out = fit_image(image, _preprocess(4, 2))
    assert out.shape == (3, 4, 2)
    assert out[0, 0].tolist() == [200, 200]
    assert out[2, 3].tolist() == [0, 0]


def test_pixels_and_normalisation_by_hand() -> None:
    images = np.array([[[[0]], [[255]]]], dtype=np.uint8)
    prepared = prepare(_data(images), Preprocess(height=2, width=1, channels=1, mean=(0.5,), std=(0.25,)))
    assert prepared.pixels([0]).reshape(-1).tolist() == [0, 255]
    assert prepared.tensor([0]).reshape(-1).tolist() == [-2.0, 2.0]
    assert prepared.tensor([0]).dtype == torch.float32


def test_the_cache_is_not_changed_by_use() -> None:
    prepared = prepare(_data(_images(4, 3, 3, 3)), _preprocess(3, 3))
    before = prepared.pixels(range(4))
    for images, _ in prepared.batches(2, augment=lambda raw, _: raw.zero_()):
        images.zero_()
    assert torch.equal(prepared.pixels(range(4)), before)
    assert before.any()


class TestBatches:
    @pytest.fixture(params=["cached", "lazy"])
    def prepared(self, request: pytest.FixtureRequest) -> Prepared:
        data = ImageData(_OneByOne(_images(10, 4, 4, 3)), np.arange(10, dtype=np.int64), list("abcdefghij"), "made")
        return prepare(data, _preprocess(4, 4), cache_bytes=0 if request.param == "lazy" else 1 << 20)

    def test_sizes(self, prepared: Prepared) -> None:
        assert [len(labels) for _, labels in prepared.batches(4)] == [4, 4, 2]
        assert [len(labels) for _, labels in prepared.batches(4, drop_last=True)] == [4, 4]
        for size, drop, count in ((4, False, 3), (4, True, 2), (5, False, 2), (5, True, 2), (11, True, 0)):
            assert prepared.num_batches(size, drop) == count == len(list(prepared.batches(size, drop_last=drop)))
        with pytest.raises(DataError, match="batch size of 0"):
            prepared.batches(0)

    def test_images_and_labels_stay_together(self, prepared: Prepared) -> None:
        seen: list[int] = []
        for images, labels in prepared.batches(3, shuffle_seed=5):
            assert torch.equal(images, prepared.tensor(labels))
            seen += labels.tolist()
        assert sorted(seen) == list(range(10))
        assert seen != sorted(seen)

    def test_the_seed_alone_decides(self, prepared: Prepared) -> None:

        def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
            return images ^ torch.randint(0, 8, images.shape, generator=generator, dtype=torch.uint8)

        def epoch(seed: int | None) -> Tensor:
            return torch.cat([images for images, _ in prepared.batches(4, shuffle_seed=seed, augment=jitter)])

        torch.manual_seed(1)
        first = epoch(3)
        torch.manual_seed(2)
        state = torch.get_rng_state()
        # An epoch that was left in the middle leaves no trace.
        next(iter(prepared.batches(4, shuffle_seed=9, augment=jitter)))
        assert torch.equal(epoch(3), first)
        assert not torch.equal(epoch(4), first)
        assert torch.equal(epoch(None), epoch(None))
        assert torch.equal(torch.get_rng_state(), state)

    def test_augmentation_must_keep_shape_and_type(self, prepared: Prepared) -> None:
        for wrong in (lambda raw, _: raw[:1], lambda raw, _: raw.float()):
            with pytest.raises(DataError, match="augmentation turned"):
                list(prepared.batches(4, augment=wrong))


def test_same_order_whether_cached_or_not() -> None:
    data, preprocess = _data(_images(9, 4, 4, 3), 9), _preprocess(4, 4)
    cached, lazy = prepare(data, preprocess), prepare(data, preprocess, cache_bytes=9 * 48 - 1)
    assert (cached.cached, lazy.cached) == (True, False)
    assert prepare(data, preprocess, cache_bytes=9 * 48).cached
    for one, other in zip(cached.batches(4, shuffle_seed=1), lazy.batches(4, shuffle_seed=1), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_cached_images_are_read_once_with_progress() -> None:
    source = _OneByOne(_images(600, 2, 2, 1))
    seen: list[tuple[int, int]] = []
    data = ImageData(source, np.zeros(600, dtype=np.int64), ["0"], "made")
    prepared = prepare(data, _preprocess(2, 2), progress=lambda done, total: seen.append((done, total)))
    list(prepared.batches(100, shuffle_seed=0))
    assert sorted(source.reads) == list(range(600))
    assert seen == [(256, 600), (512, 600), (600, 600)]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_broken_image_ends_it_and_the_threads(cache_bytes: int) -> None:
    before = threading.active_count()
    source = _OneByOne(_images(4000, 2, 2, 3), broken=30, seconds=0.0005)
    data = ImageData(source, np.zeros(4000, dtype=np.int64), ["0"], "made")
    with pytest.raises(DataError, match="image 30 is broken"):
        list(prepare(data, _preprocess(2, 2), cache_bytes=cache_bytes, workers=2).batches(16))
    assert threading.active_count() == before
    # What was not begun yet is not begun any more.
    assert len(source.reads) < 2000


def test_leaving_a_lazy_epoch_stops_its_threads() -> None:
    before = threading.active_count()
    source = _OneByOne(_images(500, 2, 2, 3))
    prepared = prepare(ImageData(source, None, (), "made"), _preprocess(2, 2), cache_bytes=0)
    batches = prepared.batches(10)
    _, labels = next(batches)
    assert labels.tolist() == [-1] * 10
    del batches
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert len(source.reads) <= 30
    assert source.threads != {threading.main_thread().name}


def test_unfit_data() -> None:
    data = _data(_images(3, 2, 2, 3))
    with pytest.raises(DataError, match="no images"):
        prepare(data.subset([]), _preprocess(2, 2))
    with pytest.raises(DataError, match="the model takes 2 channels"):
        prepare(data, _preprocess(2, 2, 2))


class TestPreprocessed:
    @pytest.fixture
    def data(self, tmp_path: Path) -> ImageData:
        (tmp_path / "floats.py").write_text(
            "import torch\n"
            "class Set:\n"
            "    def __len__(self): return 4\n"
            "    def __getitem__(self, i): return torch.full((2, 3, 3), float(i)), i % 2\n"
        )
        return load_data(f"{tmp_path}/floats.py:Set")

    @pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
    def test_passed_on_as_they_are(self, data: ImageData, cache_bytes: int) -> None:
        prepared = prepare(data, _preprocess(3, 3, 2), cache_bytes=cache_bytes)
        assert prepared.preprocessed
        images, labels = next(iter(prepared.batches(4)))
        assert torch.equal(images, torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 2, 3, 3))
        assert labels.tolist() == [0, 1, 0, 1]
        assert prepared.tensor([]).shape == (0, 2, 3, 3)

    def test_wrong_shape(self, data: ImageData) -> None:
        with pytest.raises(DataError, match=r"tensor \[2, 3, 3\], the model takes \[2, 4, 4\]"):
            prepare(data, _preprocess(4, 4, 2))

    def test_not_augmented(self, data: ImageData) -> None:
        prepared = prepare(data, _preprocess(3, 3, 2))
        with pytest.raises(DataError, match="not augmented"):
            prepared.batches(2, augment=lambda raw, _: raw)
        with pytest.raises(DataError, match="no pixels"):
            prepared.pixels([0])


class TestRealData:
    def test_grey_to_colour_at_another_size(self, data_dir: Path) -> None:
        data = load_data(f"{data_dir}/fashion:test").limit(300)
        prepared = prepare(data, _preprocess(32, 32))
        pixels = prepared.pixels(range(300))
        assert torch.equal(pixels[:, 0], pixels[:, 1])
        picture = Image.fromarray(data.image(7)[:, :, 0]).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(pixels[7].permute(1, 2, 0).numpy(), np.asarray(picture))

    def test_jpegs_from_the_zip(self, data_dir: Path) -> None:
        data = load_data(f"{data_dir}/cifar10_jpeg.zip:test").limit(2000, seed=1)
        assert np.bincount(data.labels).tolist() == [200] * 10
        started = time.process_time()  # of all threads; what else the machine does is no fault
        prepared = prepare(data, _preprocess(32, 32))
        assert time.process_time() - started < 10
        buffer = io.BytesIO()
        Image.fromarray(prepared.pixels([5])[0].permute(1, 2, 0).numpy()).save(buffer, "PNG")
        assert np.array_equal(np.asarray(Image.open(buffer)), data.image(5))
