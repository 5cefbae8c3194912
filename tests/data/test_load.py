"""Data specs: every kind of source, and every way in which one can be wrong."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgespa.data import ImageData, load_data
from edgespa.errors import DataError, ModelError


def _png(value: int, size: tuple[int, int] = (4, 3), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value if mode in ("L", "P", "1") else (value,) * len(mode)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _first_values(data: ImageData) -> list[int]:
    return [int(data.image(index)[0, 0, 0]) for index in range(len(data))]


def _fails(spec: Path | str, *said: str, hint: str = "", **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        load_data(str(spec), **options)
    for text in said:
        assert text in caught.value.message
    assert caught.value.hint
    assert hint in caught.value.hint
    return caught.value


SPLITS = {
    "train/cat/b.png": _png(2),
    "train/cat/a.png": _png(1),
    "train/dog/a.png": _png(3),
    "train/ant/a.png": _png(4),
    "test/dog/a.png": _png(5),
    "test/ant/a.png": _png(6),
}


class TestFolders:
    @pytest.fixture(params=["folder", "wrapped folder", "zip", "zip with top"])
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        wrapped = {f"pets/{name}": content for name, content in SPLITS.items()}
        if request.param == "folder":
            return _write(tmp_path / "pets", SPLITS)
        if request.param == "wrapped folder":
            return _write(tmp_path / "outer", wrapped)
        return _zip(tmp_path / "pets.zip", SPLITS if request.param == "zip" else wrapped)

    def test_split(self, source: Path) -> None:
        data = load_data(f"{source}:train")
        assert data.classes == ("ant", "cat", "dog")
        assert data.labels.tolist() == [0, 1, 1, 2]
        assert data.labels.dtype == np.int64
        assert _first_values(data) == [4, 1, 2, 3]
        assert data.image(0).shape == (3, 4, 3)
        assert data.image(0).dtype == np.uint8
        assert data.name == f"{source.stem}:train"

    def test_classes_absent_from_a_split_keep_their_number(self, source: Path) -> None:
        data = load_data(f"{source}:test")
        assert data.classes == ("ant", "cat", "dog")
        assert data.labels.tolist() == [0, 2]

    def test_unknown_split(self, source: Path) -> None:
        _fails(f"{source}:tset", "no split 'tset'", hint="did you mean 'test'? splits there: test, train")

    def test_no_split_named(self, source: Path) -> None:
        _fails(source, "no images, but splits: test, train", hint=f"{source}:")

    def test_without_splits(self, tmp_path: Path) -> None:
        files = {name.removeprefix("train/"): content for name, content in SPLITS.items() if "train" in name}
        for source in (_write(tmp_path / "a", files), _zip(tmp_path / "a.zip", files)):
            assert load_data(str(source)).labels.tolist() == [0, 1, 1, 2]
            _fails(f"{source}:train", "no split 'train'")

    def test_current_folder_has_a_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(_write(tmp_path / "pets", SPLITS))
        assert load_data(".:train").name == "pets:train"

    def test_flat_is_unlabelled(self, tmp_path: Path) -> None:
        folder = _write(tmp_path / "flat", {"b.png": _png(2), "a.jpg": _png(1)})
        _fails(folder, "has no classes", hint="folder of its own")
        data = load_data(str(folder), labelled=False)
        assert not data.labelled
        assert data.classes == ()
        assert _first_values(data) == [1, 2]
        with pytest.raises(DataError, match="has no classes"):
            _ = data.labels

    def test_one_class_is_none(self, tmp_path: Path) -> None:
        folder = _write(tmp_path / "one", {"only/a.png": _png(1)})
        _fails(folder, "one folder of images only ('only')")
        assert len(load_data(str(folder), labelled=False)) == 1

    def test_no_images(self, tmp_path: Path) -> None:
        _fails(_write(tmp_path / "none", {"cat/a.txt": b"x"}), "no images", hint=".png")
        (tmp_path / "empty").mkdir()
        _fails(tmp_path / "empty", "no images")

    def test_mixed_depths(self, tmp_path: Path) -> None:
        folder = _write(tmp_path / "mixed", {"cat/a.png": _png(1), "test/cat/a.png": _png(1)})
        _fails(folder, "some folders hold images (cat)", "(test)")

    def test_what_is_left_out_is_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        files = {
            "cat/a.png": _png(1),
            "dog/a.PNG": _png(1),
            "loose.png": _png(1),
            "cat/readme.txt": b"",
            "dog/more/b.png": _png(2),
            "rest/a.txt": b"",
            "dog/.hidden.png": b"",
            ".git/a/b.png": b"",
        }
        with caplog.at_level(logging.WARNING):
            data = load_data(str(_write(tmp_path / "d", files)))
        assert data.classes == ("cat", "dog")
        assert len(data) == 2
        told = " / ".join(record.getMessage() for record in caplog.records)
        for text in ("no images in: rest", "1 images beside", "1 files are no images", "1 images in folders below"):
            assert text in told

    def test_missing_path_suggests_the_nearest(self, tmp_path: Path) -> None:
        source = _write(tmp_path / "pets", SPLITS)
        _fails(tmp_path / "pest:train", "does not exist", hint=f"did you mean {source}?")
        _fails(f"{source}:", "ends in a colon")

    def test_symbolic_links(self, tmp_path: Path) -> None:
        source = _write(tmp_path / "pets", SPLITS)
        (tmp_path / "linked").mkdir()
        (tmp_path / "linked/train").symlink_to(source / "train")
        assert len(load_data(f"{tmp_path}/linked:train")) == 4

    @pytest.mark.parametrize("keep", [0, 10, 60])
    def test_corrupt_image_is_named(self, tmp_path: Path, keep: int) -> None:
        files = {"cat/a.png": _png(1), "dog/bad.png": _png(1, (64, 64))[:keep]}
        for source in (_write(tmp_path / "d", files), _zip(tmp_path / "d.zip", files)):
            data = load_data(str(source))
            data.image(0)
            with pytest.raises(DataError, match=r"dog/bad\.png is not a whole image"):
                data.image(1)

    def test_vanished_image_is_named(self, tmp_path: Path) -> None:
        source = _write(tmp_path / "pets", SPLITS)
        data = load_data(f"{source}:test")
        shutil.rmtree(source)
        with pytest.raises(DataError, match=r"ant/a\.png cannot be read"):
            data.image(0)

    @pytest.mark.parametrize(
        ("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("RGBA", 4), ("LA", 4), ("P", 3), ("CMYK", 3)]
    )
    def test_modes(self, tmp_path: Path, mode: str, channels: int) -> None:
        folder = _write(tmp_path / "d", {"a/a.png": _png(1), "b/b.png": _png(1)})
        image = Image.new("RGB", (4, 3), (200, 200, 200)).convert(mode)
        image.save(folder / "a/a.png", "TIFF")
        assert load_data(str(folder)).image(0).shape == (3, 4, channels)

    @pytest.mark.parametrize("mode", ["I;16", "F"])
    def test_more_than_eight_bits(self, tmp_path: Path, mode: str) -> None:
        folder = _write(tmp_path / "d", {"a/a.tif": b"", "b/b.png": _png(1)})
        Image.new(mode, (4, 3)).save(folder / "a/a.tif")
        with pytest.raises(DataError, match=r"a\.tif: .* more than 8 bits"):
            load_data(str(folder)).image(0)


class TestZip:
    def test_rubbish_inside_is_ignored(self, tmp_path: Path) -> None:
        files = {**SPLITS, "__MACOSX/train/cat/._a.png": b"", ".DS_Store": b"", "train/cat/": b""}
        assert len(load_data(f"{_zip(tmp_path / 'a.zip', files)}:train")) == 4

    @pytest.mark.parametrize("part", [0.0, 0.5, 0.95])
    def test_cut_off(self, tmp_path: Path, part: float) -> None:
        path = _zip(tmp_path / "a.zip", SPLITS)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        _fails(f"{path}:train", "not a whole zip file")

    def test_damaged_entry_is_named(self, tmp_path: Path) -> None:
        content = bytearray(_zip(tmp_path / "a.zip", SPLITS).read_bytes())
        content[content.index(SPLITS["train/cat/a.png"]) + 40] ^= 0xFF
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(DataError, match=r"train/cat/a\.png cannot be read"):
            load_data(f"{tmp_path}/a.zip:train").image(1)


def _idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


class TestIdx:
    @pytest.fixture
    def images(self) -> NDArray[np.uint8]:
        return np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)

    @pytest.fixture(params=[True, False])
    def folder(self, request: pytest.FixtureRequest, tmp_path: Path, images: NDArray[np.uint8]) -> Path:
        folder = tmp_path / "mini"
        folder.mkdir()
        for name, part in (("train", slice(0, 4)), ("t10k", slice(4, 6))):
            labels = np.array([0, 1, 2, 0, 1, 0], dtype=np.uint8)[part]
            for what, content in (("images-idx3", _idx(images[part])), ("labels-idx1", _idx(labels))):
                packed = gzip.compress(content) if request.param else content
                (folder / f"{name}-{what}-ubyte{'.gz' if request.param else ''}").write_bytes(packed)
        return folder

    def test_splits(self, folder: Path, images: NDArray[np.uint8]) -> None:
        train, test = load_data(f"{folder}:train"), load_data(f"{folder}:test")
        assert (len(train), len(test)) == (4, 2)
        assert np.array_equal(test.image(1), images[5][:, :, None])
        assert test.labels.tolist() == [1, 0]
        # The highest label is only in the other split.
        assert test.classes == train.classes == ("0", "1", "2")
        assert np.array_equal(load_data(f"{folder}:t10k").labels, test.labels)
        _fails(folder, "has splits", hint=f"{folder}:train")
        _fails(f"{folder}:val", "no split 'val'", hint="test, train")

    def test_damage(self, folder: Path) -> None:
        path = next(folder.glob("train-images*"))
        whole = path.read_bytes()
        for broken in (whole[:-9], whole[:3], b"", b"\0\0\x0d" + whole[3:]):
            path.write_bytes(broken)
            _fails(f"{folder}:train", path.name)

    def test_label_count(self, folder: Path) -> None:
        for path in folder.glob("*-labels*"):
            shutil.copy(next(folder.glob("t10k-labels*")), path) if "train" in path.name else None
        _fails(f"{folder}:train", "4 images but 2 labels")

    def test_no_labels(self, folder: Path) -> None:
        next(folder.glob("train-labels*")).unlink()
        _fails(f"{folder}:train", "has no classes")
        assert not load_data(f"{folder}:train", labelled=False).labelled

    def test_a_single_file_is_not_the_folder(self, folder: Path) -> None:
        _fails(next(folder.glob("train-images*")), "not a kind of data", hint=f"give the folder: {folder}")


class TestNpz:
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 1, 0])

    def _save(self, tmp_path: Path, **arrays: Any) -> Path:
        np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
        return tmp_path / "a.npz"

    @pytest.mark.parametrize(("x", "y"), [("images", "labels"), ("x", "y")])
    def test_plain(self, tmp_path: Path, x: str, y: str) -> None:
        data = load_data(str(self._save(tmp_path, **{x: self.images, y: self.labels})))
        assert data.labels.tolist() == self.labels.tolist()
        assert data.classes == ("0", "1", "2")
        assert np.array_equal(data.image(3), self.images[3])

    @pytest.mark.parametrize("form", ["x_{}", "images_{}", "{}_images"])
    def test_splits(self, tmp_path: Path, form: str) -> None:
        label = form.replace("images", "labels").replace("x", "y")
        path = self._save(
            tmp_path,
            **{form.format("train"): self.images[:3], label.format("train"): self.labels[:3, None]},
            **{form.format("test"): self.images[3:], label.format("test"): self.labels[3:]},
        )
        data = load_data(f"{path}:test")
        assert data.labels.tolist() == [1, 0]
        assert data.classes == ("0", "1", "2")
        assert data.name == "a:test"
        assert load_data(f"{path}:train").labels.tolist() == [0, 1, 2]
        _fails(path, "has splits: train, test")
        _fails(f"{path}:val", "no split 'val'")

    def test_grey_and_names(self, tmp_path: Path) -> None:
        path = self._save(tmp_path, images=self.images[..., 0], labels=self.labels, classes=["a", "b", "c"])
        data = load_data(str(path))
        assert data.image(0).shape == (4, 3, 1)
        assert data.classes == ("a", "b", "c")

    def test_text_labels(self, tmp_path: Path) -> None:
        data = load_data(str(self._save(tmp_path, images=self.images, labels=["dog", "cat", "dog", "ant", "cat"])))
        assert data.classes == ("ant", "cat", "dog")
        assert data.labels.tolist() == [2, 1, 2, 0, 1]

    def test_unlabelled(self, tmp_path: Path) -> None:
        path = self._save(tmp_path, images=self.images)
        _fails(path, "has no classes")
        assert len(load_data(str(path), labelled=False)) == 5

    @pytest.mark.parametrize(
        ("arrays", "said", "hint"),
        [
            ({"images": images.astype(np.float32), "labels": labels}, "type float32", "uint8"),
            ({"images": images[:, :, :, :2], "labels": labels}, "shape (5, 4, 3, 2)", "transpose"),
            ({"images": images[0, 0], "labels": labels}, "shape", "[N, H, W]"),
            ({"images": images[:0], "labels": labels[:0]}, "no images", ""),
            ({"images": images, "labels": labels[:4]}, "5 images but 4 labels", ""),
            ({"images": images, "labels": labels - 1}, "a label of -1", "from 0"),
            ({"images": images, "labels": labels * 1.0}, "type float64", ""),
            ({"images": images, "labels": np.eye(3, dtype=int)[labels]}, "shape (5, 3)", "argmax"),
            ({"images": images, "labels": labels, "classes": ["a", "b"]}, "a label of 2, but 2 classes", ""),
            ({"images": images, "labels": labels, "classes": [1, 2, 3]}, "'classes' of shape", ""),
            ({"images": np.array([{}] * 5), "labels": labels}, "cannot be read", "unpickles nothing"),
            ({"images": images, "labels": np.array([{}] * 5)}, "cannot be read", "unpickles nothing"),
            ({"pictures": images}, "its arrays: pictures", "images"),
        ],
    )
    def test_wrong_arrays(self, tmp_path: Path, arrays: dict[str, Any], said: str, hint: str) -> None:
        np.savez(tmp_path / "a.npz", **arrays)
        _fails(tmp_path / "a.npz", said, hint=hint)

    @pytest.mark.parametrize("part", [0.0, 0.5, 0.97])
    def test_cut_off(self, tmp_path: Path, part: float) -> None:
        path = self._save(tmp_path, images=self.images, labels=self.labels)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        _fails(path, "not a whole .npz file")

    def test_single_array_under_a_wrong_name(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", self.images)
        (tmp_path / "a.npy").rename(tmp_path / "a.npz")
        _fails(tmp_path / "a.npz", "a single array")


DATASETS = """
import numpy as np, torch
from PIL import Image

class Base:
    def __init__(self, items, **extra):
        self.items = items
        self.read = 0
        vars(self).update(extra)
    def __len__(self):
        return len(self.items)
    def __getitem__(self, index):
        self.read += 1
        return self.items[index]

grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
rgb = np.stack([grey] * 3, 2)
def arrays(): return Base([(rgb, 1), (rgb, 0), (grey, 2)])
def pil(): return Base([(Image.fromarray(rgb), 0), (Image.fromarray(grey), np.int64(1)), (Image.new("P", (4, 3)), 1)])
def bytes_chw(): return Base([(torch.from_numpy(rgb).permute(2, 0, 1), torch.tensor(i)) for i in range(2)])
def floats(): return Base([(torch.full((3, 2, 2), float(i)), i) for i in range(3)], classes=["a", "b", "c"])
def targets(): return Base([(rgb, i % 2) for i in range(50)], targets=[i % 2 for i in range(50)])
def shifted(): return Base([(rgb, 1), (rgb, 0)], targets=[0, 1], target_transform=lambda y: 1 - y)
def alone(): return Base([rgb, rgb])
def empty(): return Base([])
def stream(): return iter([1])
def odd_label(): return Base([(rgb, 0), (rgb, 0.5)])
def few_names(): return Base([(rgb, 0), (rgb, 5)], classes=["a", "b"])
def negative(): return Base([(rgb, 0), (rgb, -1)])
def odd_image(): return Base([(rgb, 0), (rgb.astype(np.float64), 1)])
def mixed(): return Base([(torch.zeros(3, 2, 2), 0), (rgb, 1)])
class Boxes(dict): pass
def boxed(): return Base([(rgb, Boxes(boxes=np.zeros((1, 4))))] * 2)
def masked(): return Base([(rgb, grey)] * 2)
def masked_pil(): return Base([[Image.fromarray(rgb), Image.fromarray(grey)]] * 2)
def masked_tensor(): return Base([(rgb, torch.zeros(3, 4))] * 2)
def one_hot(): return Base([(rgb, torch.eye(3)[0])] * 2)
def listed(): return Base([(rgb, [[1, 2, 3, 4]])] * 2)
def named(): return Base([(rgb, "cat")] * 2)
def without(): return Base([(rgb, None)] * 2)
def ignored(): return Base([(rgb, 0), (rgb, -1)])
def three(): return Base([(rgb, None, "a.jpg")] * 2)
def dicts(): return Base([{"image": Image.fromarray(rgb), "label": 1}, {"image": rgb, "label": 0}])
def infinite(): return Base([(torch.full((3, 2, 2), float("nan")), 0)])
def breaks():
    class Breaks(Base):
        def __getitem__(self, index):
            if index == 1:
                raise KeyError("gone")
            return self.items[index]
    return Breaks([(rgb, 0)] * 3, targets=[0, 0, 0])
ready = arrays()
"""


class TestDatasets:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        (tmp_path / "sets_for_test.py").write_text(DATASETS)
        return tmp_path / "sets_for_test.py"

    def test_arrays(self, file: Path) -> None:
        data = load_data(f"{file}:arrays")
        assert data.labels.tolist() == [1, 0, 2]
        assert data.classes == ("0", "1", "2")
        assert data.image(0).shape == (3, 4, 3)
        assert data.image(2).shape == (3, 4, 1)
        assert load_data(f"{file}:ready").labels.tolist() == [1, 0, 2]

    def test_module_of_the_current_folder(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(file.parent)
        assert len(load_data("sets_for_test:arrays")) == 3

    def test_pil(self, file: Path) -> None:
        data = load_data(f"{file}:pil")
        assert [data.image(index).shape[2] for index in range(3)] == [3, 1, 3]
        assert data.labels.tolist() == [0, 1, 1]

    def test_uint8_tensors(self, file: Path) -> None:
        data = load_data(f"{file}:bytes_chw")
        assert data.image(1).shape == (3, 4, 3)
        assert int(data.image(1)[2, 3, 0]) == 11

    def test_float_tensors_are_preprocessed(self, file: Path) -> None:
        data = load_data(f"{file}:floats")
        assert data.preprocessed
        assert data.classes == ("a", "b", "c")
        assert float(data.subset([2, 0]).tensor(0).mean()) == 2.0
        with pytest.raises(DataError, match="float tensors"):
            data.image(0)

    def test_ready_labels_are_used(self, file: Path) -> None:
        seen: list[tuple[int, int]] = []
        data = load_data(f"{file}:targets", progress=lambda done, total: seen.append((done, total)))
        assert data.labels.sum() == 25
        assert seen == []

    def test_labels_are_read_with_progress(self, file: Path) -> None:
        seen: list[tuple[int, int]] = []
        load_data(f"{file}:arrays", progress=lambda done, total: seen.append((done, total)))
        assert seen == [(3, 3)]

    def test_transformed_labels_are_read(self, file: Path) -> None:
        assert load_data(f"{file}:shifted").labels.tolist() == [1, 0]

    def test_unlabelled(self, file: Path) -> None:
        _fails(f"{file}:alone", "has no classes")
        assert len(load_data(f"{file}:alone", labelled=False)) == 2

    @pytest.mark.parametrize(
        "name",
        ["boxed", "masked", "masked_pil", "masked_tensor", "one_hot", "listed", "named", "without", "ignored", "three"],
    )
    def test_where_no_labels_are_needed_none_are_looked_at(self, file: Path, name: str) -> None:
        data = load_data(f"{file}:{name}", labelled=False)
        assert not data.labelled
        assert [data.image(index).shape for index in range(2)] == [(3, 4, 3)] * 2
        if name.startswith("masked") and name != "masked_tensor":
            assert load_data(f"{file}:{name}").kind == "segmentation"
        else:
            _fails(f"{file}:{name}", file.name)

    def test_items_that_are_dicts(self, file: Path) -> None:
        data = load_data(f"{file}:dicts")
        assert data.labels.tolist() == [1, 0]
        assert data.image(0).shape == (3, 4, 3)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("empty", "no images"),
            ("stream", "no length"),
            ("odd_label", "item 1 has the label 0.5"),
            ("few_names", "a label of 5, but 2 classes"),
            ("negative", "a label of -1"),
            ("nothing", "has no 'nothing'"),
        ],
    )
    def test_wrong_on_opening(self, file: Path, name: str, said: str) -> None:
        _fails(f"{file}:{name}", said)

    def test_wrong_on_reading(self, file: Path) -> None:
        with pytest.raises(DataError, match="item 1 has an image of type ndarray of float64"):
            load_data(f"{file}:odd_image").image(1)
        with pytest.raises(DataError, match="item 1 is a ndarray of uint8"):
            load_data(f"{file}:mixed").tensor(1)
        with pytest.raises(DataError, match="item 0 has values that are not finite"):
            load_data(f"{file}:infinite").tensor(0)
        with pytest.raises(DataError, match="item 1 cannot be read: KeyError: 'gone'"):
            load_data(f"{file}:breaks").image(1)

    def test_errors_are_of_data(self, file: Path) -> None:
        with pytest.raises(DataError) as caught:
            load_data(f"{file.parent}/absent.py:x")
        assert not isinstance(caught.value, ModelError)


class TestOtherSpecs:
    @pytest.mark.parametrize("spec", ["", "nowhere", "nowhere:train", "surely.not.installed:x"])
    def test_nothing_there(self, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        _fails(spec, "does not exist", hint="DATA is PATH[:SPLIT]")

    def test_unknown_kind(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("1,2")
        _fails(tmp_path / "a.csv", "not a kind of data")


class TestDigits:
    def test_split_is_fixed_stratified_and_whole(self) -> None:
        train, test, both = load_data("digits:train"), load_data("digits:test"), load_data("digits")
        assert (len(train), len(test), len(both)) == (1348, 449, 1797)
        assert train.classes == tuple("0123456789")
        shares = np.bincount(test.labels) / np.bincount(both.labels)
        assert np.all(np.abs(shares - 0.25) < 0.005)
        assert (train.name, test.name) == ("digits:train", "digits:test")
        # Written down, so that a change of the split does not go unseen.
        assert (
            hashlib.sha256(b"".join(test.image(index).tobytes() for index in range(449))).hexdigest()[:16]
            == "dbf6ff2f21447e83"
        )
        images = {train.image(index).tobytes() for index in range(len(train))}
        assert not images & {test.image(index).tobytes() for index in range(len(test))}
        assert max(int(test.image(index).max()) for index in range(20)) == 255

    def test_unknown_split(self) -> None:
        _fails("digits:val", "no split 'val'", hint="train, test")


class TestRealData:
    def test_jpeg_cifar(self, data_dir: Path) -> None:
        data = load_data(f"{data_dir}/cifar10_jpeg.zip:test")
        assert len(data) == 10_000
        assert data.classes[0] == "airplane"
        assert data.classes[9] == "truck"
        assert np.bincount(data.labels).tolist() == [1000] * 10
        assert data.image(9_999).shape == (32, 32, 3)
        assert len(load_data(f"{data_dir}/cifar10_jpeg.zip:train")) == 50_000

    @pytest.mark.parametrize("name", ["mnist", "fashion"])
    def test_idx(self, data_dir: Path, name: str) -> None:
        data = load_data(f"{data_dir}/{name}:test")
        assert len(data) == 10_000
        assert data.classes == tuple("0123456789")
        assert data.image(0).shape == (28, 28, 1)
        assert data.limit(1000).name == f"{name}:test, 1000 of 10000"
