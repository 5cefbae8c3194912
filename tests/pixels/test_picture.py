"""The same pixels everywhere: orientation, transparency, depth, by every way from a file to an input."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgespa.config import Preprocess
from edgespa.data import load_data, prepare
from edgespa.device import runner
from edgespa.errors import DataError
from edgespa.pixels.picture import ORIENTATION, model_pixels, upright_pixels

RANDOM = np.random.default_rng(3)
SCENE = RANDOM.integers(0, 256, (11, 7, 3), dtype=np.uint8)


def how(channels: int = 3, size: tuple[int, int] = (8, 6), **more: Any) -> Preprocess:
    values = (0.485, 0.456, 0.406, 0.5)[:channels]
    return Preprocess(height=size[0], width=size[1], channels=channels, mean=values, std=values, **more)


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, bits: int, colour: int, row: bytes, transparent: bytes) -> bytes:
    """A PNG file of one row, of any depth, with the one transparent value that such files may name."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def opened(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return upright_pixels(image)


def every_way(content: bytes, preprocess: Preprocess, folder: Path) -> list[NDArray[np.float32]]:
    """The inputs that a folder, a zip, a data set of PIL images and the runner make of one file."""
    (folder / "images").mkdir(parents=True)
    path = folder / "images" / "a.img.png"  # the suffix makes it an image; Pillow looks inside
    path.write_bytes(content)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(path, "a.png")
    name = f"pictures_{abs(hash(str(folder)))}"
    (folder / f"{name}.py").write_text(f"from PIL import Image\ndef data():\n    return [Image.open({str(path)!r})]\n")
    specs = (str(path.parent), str(folder / "a.zip"), f"{folder / name}.py:data")
    inputs = [prepare(load_data(spec, labelled=False), preprocess).tensor([0]).numpy() for spec in specs]
    return [*inputs, runner.preprocess(path, preprocess.model_dump(mode="json"))]


def the_same(found: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    return found[0]


class TestOrientation:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_as_pillow_turns_it(self, kind: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        content = stored(Image.fromarray(SCENE), kind, exif=exif)
        with Image.open(io.BytesIO(content)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        np.testing.assert_array_equal(opened(content), expected)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_the_same_photograph_by_every_way(self, tmp_path: Path, orientation: int) -> None:
        """Stored turned with the tag is the input of what is stored upright: the same to the last bit."""
        upright = Image.fromarray(SCENE)
        back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of Image.Transpose: the inverse of what the tag asks for
        turned = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        found = every_way(stored(turned, exif=exif), how(), tmp_path / "turned")
        plain = every_way(stored(upright), how(), tmp_path / "plain")
        the_same([*found, *plain])

    @pytest.mark.parametrize(
        "exif",
        [
            b"Exif\0\0",
            b"Exif\0\0rubbish",
            b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x00\0\0\0\0\0\0\0",  # orientation 0
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",  # 9
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",  # a text
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x02\0\0\0\x06\0\x06\0\0\0\0\0",  # two values
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\xff\xff\xff\0",  # a fraction far outside
        ],
    )
    def test_a_broken_tag_is_as_none(self, tmp_path: Path, exif: bytes) -> None:
        content = stored(Image.fromarray(SCENE), "PNG", exif=exif)
        found = the_same(every_way(content, how(), tmp_path / "broken"))
        np.testing.assert_array_equal(found, every_way(stored(Image.fromarray(SCENE)), how(), tmp_path / "plain")[0])


# Without the values that are hidden below.
GREY = RANDOM.integers(1, 127, SCENE.shape[:2], dtype=np.uint8)
# Nothing on the left, and with a soft edge where the kind of file has one.
ALPHA = np.where(np.arange(SCENE.shape[1]) < 3, 0, 255).astype(np.uint8) + np.zeros_like(GREY)
SOFT = np.where(np.arange(SCENE.shape[1]) == 3, 100, ALPHA).astype(np.uint8)


def hidden(mode: str, behind: int) -> bytes:
    """A picture whose transparent part has a colour that nobody sees."""
    grey = Image.fromarray(np.where(ALPHA == 0, behind, GREY).astype(np.uint8))
    if mode == "L+tRNS":
        return stored(grey, transparency=behind)
    if mode == "P+tRNS":
        return stored(grey.convert("P"), transparency=behind)
    if mode == "RGB+tRNS":
        return stored(Image.merge("RGB", [grey] * 3), transparency=(behind,) * 3)
    return stored(Image.merge("LA", [grey, Image.fromarray(SOFT)]).convert(mode))


class TestTransparency:
    @pytest.mark.parametrize("mode", ["RGBA", "LA", "L+tRNS", "P+tRNS", "RGB+tRNS"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_hidden_colours_do_not_count(self, tmp_path: Path, mode: str, channels: int) -> None:
        inputs = [
            the_same(every_way(hidden(mode, behind), how(channels), tmp_path / str(behind))) for behind in (0, 128, 255)
        ]
        assert the_same(inputs).std() > 0

    @pytest.mark.parametrize("background", [0, 77, 255])
    def test_the_background_shows(self, background: int) -> None:
        clear = np.zeros((4, 4, 4), np.uint8)
        clear[:, :, :3] = 33
        assert set(model_pixels(clear, how(3, (4, 4), background=background).model_dump()).ravel().tolist()) == {
            background
        }
        assert set(model_pixels(clear, how(1, (2, 2), background=background).model_dump()).ravel().tolist()) == {
            background
        }

    def test_white_is_recorded(self) -> None:
        assert how().model_dump()["background"] == 255

    def test_half_transparent_by_hand(self) -> None:
        half = np.full((2, 2, 4), 100, np.uint8)
        half[:, :, 3] = 51
        assert set(model_pixels(half, how(3, (2, 2)).model_dump()).ravel().tolist()) == {round(100 * 0.2 + 255 * 0.8)}

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_four_channels_are_data(self, tmp_path: Path, mode: str) -> None:
        height, width = GREY.shape
        preprocess = Preprocess(height=height, width=width, channels=4, mean=(0.0,) * 4, std=(1 / 255,) * 4)
        (found,) = the_same(every_way(hidden(mode, 128), preprocess, tmp_path / "four"))
        np.testing.assert_allclose(found[3], SOFT, atol=1e-3)
        np.testing.assert_allclose(found[0], np.where(ALPHA == 0, 128, GREY), atol=1e-3)

    @pytest.mark.parametrize(
        ("content", "alpha"),
        [
            (png(2, 1, 0, b"\x40", b"\0\0"), [0, 255]),
            (png(2, 2, 0, b"\x70", b"\0\1"), [0, 255]),
            (png(2, 4, 0, b"\x1f", b"\0\1"), [0, 255]),
            (png(2, 8, 0, b"\x05\xc8", b"\0\5"), [0, 255]),
            (png(2, 8, 2, b"\1\2\3\3\2\1", b"\0\1\0\2\0\3"), [0, 255]),
            (png(2, 16, 2, b"\x12\x34\x56\x78\x9a\xbc\xff\xff\0\0\0\1", b"\x12\x34\x56\x78\x9a\xbc"), [0, 255]),
        ],
    )
    def test_files_of_every_depth(self, content: bytes, alpha: list[int]) -> None:
        assert opened(content)[0, :, 3].tolist() == alpha

    def test_arrays_too(self, tmp_path: Path) -> None:
        """An .npz of four channels, to a model of three."""
        images = np.full((2, 6, 5, 4), 200, np.uint8)
        images[:, :, :, 3] = 0
        images[1, :, :, :3] = 9
        np.savez(tmp_path / "a.npz", images=images)
        found = prepare(load_data(str(tmp_path / "a.npz"), labelled=False), how()).tensor([0, 1])
        assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr", "LAB", "1", "P"])
@pytest.mark.parametrize("size", [SCENE.shape[:2], (5, 4), (23, 31)])
def test_every_other_mode(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    image = Image.new("LAB", (7, 11), (50, 99, 3)) if mode == "LAB" else Image.fromarray(SCENE).convert(mode)
    content = stored(image, "PNG" if mode in ("L", "RGB", "1", "P") else "TIFF")
    the_same(every_way(content, how(3, size), tmp_path / "mode"))


WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"resize": "crop", "interpolation": "bicubic"},
    {"resize": "crop", "resize_to": 17, "interpolation": "lanczos", "scale": "-1-1"},
    {"resize": "crop", "resize_to": (9, 30), "interpolation": "bilinear", "antialias": False},
    {"resize": "stretch", "resize_to": (12, 13), "interpolation": "box", "scale": "0-255"},
    {"resize": "letterbox"},
    {"resize": "letterbox", "padding": 7, "interpolation": "bicubic", "antialias": False},
    {"resize": "letterbox", "resize_to": 10, "interpolation": "hamming"},
    {"resize": "crop", "resize_to": 5, "padding": 0, "interpolation": "nearest"},
)


def photographs() -> dict[str, bytes]:
    """Files as they come: grey, alpha, palette, 16 bits of colour, turned, of one pixel."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    large = Image.fromarray(RANDOM.integers(0, 256, (43, 71, 3), dtype=np.uint8))
    deep = b"".join(int(value).to_bytes(2, "big") for value in RANDOM.integers(0, 1 << 16, 3 * 9))
    return {
        "jpeg": stored(large, "JPEG"),
        "grey": stored(large.convert("L")),
        "alpha": stored(Image.merge("RGBA", (*large.split(), large.convert("L")))),
        "palette": stored(large.convert("P")),
        "bits16": png(9, 16, 2, deep, b"\xff\xff" * 3),
        "turned": stored(large, "JPEG", exif=exif),
        "one": stored(Image.new("RGB", (1, 1), (1, 2, 3))),
        "wide": stored(large.resize((90, 2))),
    }


PHOTOGRAPHS = photographs()


@pytest.mark.law(8)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_way_to_resize_by_every_way(tmp_path: Path, name: str, channels: int) -> None:
    """Training, calibration and evaluation read by folders, zips and data sets; ``run.py`` reads files."""
    for number, way in enumerate(WAYS):
        made = {}
        for order in ["rgb"] if channels == 1 else ["rgb", "bgr"]:
            wanted = how(channels, channel_order=order, **way)
            made[order] = the_same(every_way(PHOTOGRAPHS[name], wanted, tmp_path / f"{order}{number}"))
        assert made["rgb"].shape == (1, channels, 8, 6)
        assert np.isfinite(made["rgb"]).all()


class TestResizing:
    def test_a_crop_by_hand(self) -> None:
        pixels = np.arange(8, dtype=np.uint8).reshape(2, 4, 1).repeat(3, 2)
        found = model_pixels(pixels, how(3, (2, 2), resize="crop").model_dump())
        assert found[0].tolist() == [[1, 2], [5, 6]]

    def test_a_letterbox_by_hand(self) -> None:
        pixels = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, 2)
        fitted = model_pixels(pixels, how(3, (4, 3), resize="letterbox", padding=(9, 8, 7)).model_dump())
        assert fitted[0].tolist() == [[9] * 3, [0, 1, 2], [3, 4, 5], [9] * 3]
        assert fitted[2, 0].tolist() == [7] * 3
        grey = model_pixels(pixels[:, :, :1], how(3, (4, 3), resize="letterbox").model_dump())
        assert set(grey[:, 0].ravel().tolist()) == {114}

    def test_channels_the_other_way_round(self) -> None:
        pixels = np.array([[[1, 2, 3, 255]]], np.uint8)
        assert model_pixels(pixels, how(3, (1, 1), channel_order="bgr").model_dump()).ravel().tolist() == [3, 2, 1]
        assert model_pixels(pixels, how(4, (1, 1), channel_order="bgr").model_dump()).ravel().tolist() == [3, 2, 1, 255]

    def test_without_antialiasing_the_nearest_alone_count(self) -> None:
        """Of nine columns that become three the middle one of each; with it all of them."""
        pixels = np.array([[0, 90, 0, 0, 60, 0, 0, 30, 0]], np.uint8)[:, :, None]
        for kind in ("bilinear", "bicubic", "nearest"):
            way = how(1, (1, 3), interpolation=kind, antialias=False).model_dump()
            assert model_pixels(pixels, way).ravel().tolist() == [90, 60, 30]
        assert model_pixels(pixels, how(1, (1, 3)).model_dump()).max() < 60

    @pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("size", [(5, 4), (23, 31), (11, 7), (3, 40)])
    def test_without_antialiasing_as_torch_does_it(self, kind: str, size: tuple[int, int]) -> None:
        """Within a grey level: torch computes places in float32."""
        wanted = torch.nn.functional.interpolate(
            torch.from_numpy(SCENE).permute(2, 0, 1)[None].float(), size, mode=kind, align_corners=False
        )
        found = model_pixels(SCENE, how(3, size, interpolation=kind, antialias=False).model_dump())
        np.testing.assert_allclose(found, wanted[0].clamp(0, 255).numpy(), atol=0.51)

    @pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
    def test_hidden_colours_do_not_bleed(self, kind: str) -> None:
        shown = np.zeros((6, 6, 4), np.uint8)
        shown[:, :3] = (200, 100, 50, 255)
        hidden_red = shown.copy()
        hidden_red[:, 3:, 0] = 255
        way = how(4, (9, 9), interpolation=kind, antialias=False).model_dump()
        np.testing.assert_array_equal(model_pixels(shown, way), model_pixels(hidden_red, way))

    def test_a_line_that_would_become_huge(self, tmp_path: Path) -> None:
        """Its proportions kept, a picture of 60,000 pixels has 2 billion."""
        line = stored(Image.new("L", (60_000, 1)))
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "line.png").write_bytes(line)
        way = how(1, (200, 200), resize="crop")
        with pytest.raises(DataError, match=r"60,000 x 1 pixels become 12,000,000 x 200") as caught:
            prepare(load_data(str(tmp_path / "a"), labelled=False), way).tensor([0])
        assert "--resize stretch" in str(caught.value.hint)
        with pytest.raises(runner.RunnerError, match=r"more than 134,217,728"):
            runner.preprocess(tmp_path / "a" / "line.png", way.model_dump())

    @pytest.mark.parametrize(
        "wrong", [{"resize": "squeeze"}, {"interpolation": "__class__"}, {"interpolation": "box", "antialias": False}]
    )
    def test_what_is_not_known(self, tmp_path: Path, wrong: dict[str, Any]) -> None:
        (tmp_path / "a.png").write_bytes(stored(Image.fromarray(SCENE)))
        with pytest.raises(runner.RunnerError, match=next(iter(wrong.values()))):
            runner.preprocess(tmp_path / "a.png", {**how().model_dump(), **wrong})


@pytest.mark.parametrize("way", [{}, {"resize": "crop", "resize_to": 9}, {"resize": "letterbox", "resize_to": 7}])
def test_a_mask_goes_where_its_photograph_goes(tmp_path: Path, way: dict[str, Any]) -> None:
    """What is bright is class 1: after both were resized, cropped and padded still."""
    bright = np.zeros((40, 24), np.uint8)
    bright[5:20, 3:15] = 1
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "abcd":
        noise = RANDOM.integers(0, 60, bright.shape, dtype=np.uint8)
        Image.fromarray(bright * 150 + 20 + noise).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(bright).save(tmp_path / "masks" / f"{name}.png")
    data = prepare(load_data(str(tmp_path)), how(3, (8, 6), interpolation="nearest", **way))
    ((images, masks),) = list(data.batches(4))
    pixels = data.pixels([0])[0, 0]
    assert masks[0].shape == images[0, 0].shape
    padded = pixels == 114
    assert bool(padded.any()) == (way.get("resize") == "letterbox")
    assert torch.equal(masks[0] == 255, padded)
    assert torch.equal(masks[0][~padded] == 1, (pixels > 150)[~padded])


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def test_what_a_program_would_have_to_decode_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript under the name of a photograph: Pillow would start Ghostscript, here one that leaves a mark."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "gs"
    fake.write_text(f"#!/bin/sh\ntouch {tmp_path / 'was-run'}\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None, raising=False)
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.jpg").write_bytes(EPS)
    with pytest.raises(runner.RunnerError, match="a EPS file, which is not taken"):
        runner.preprocess(tmp_path / "data" / "a" / "x.jpg", how().model_dump())
    with pytest.raises(DataError):
        prepare(load_data(str(tmp_path / "data")), how()).tensor([0])
    assert not (tmp_path / "was-run").exists()


def test_a_file_that_announces_more_pixels_than_cameras_make(tmp_path: Path) -> None:
    def announced(width: int, height: int) -> bytes:
        content = bytearray(stored(Image.new("L", (1, 1))))
        content[16:24] = struct.pack(">II", width, height)
        content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
        return bytes(content)

    (tmp_path / "x.png").write_bytes(announced(13_000, 11_000))  # less than what Pillow refuses
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(runner.RunnerError, match="13,000 x 11,000 pixels"),
    ):
        runner.preprocess(tmp_path / "x.png", how().model_dump())
