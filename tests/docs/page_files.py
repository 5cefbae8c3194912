"""Stand-ins for what a page says is the reader's: networks, pictures, task files, bundles, boards.

Each is made when a block names it, is not there, and the block does not make it itself. They are small: that the
commands of a page work in their order is shown, not what they achieve.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import edgespa as es
from edgespa.bundle.archive import pack

ROOT = Path(__file__).resolve().parents[2]
NET = textwrap.dedent('''
    """A small network for images of any size."""
    import torch
    from torch import nn


    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv1 = nn.Conv2d(width, width, 3, padding=1)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1)

        def forward(self, x):
            return x + self.conv2(torch.relu(self.conv1(x)))


    class Net(nn.Module):
        def __init__(self, classes=3):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.down = nn.Conv2d(8, 16, 3, stride=4, padding=1)
            self.layer1 = nn.Sequential(Block(16), Block(16))
            self.head = nn.Linear(16, classes)

        def forward(self, x):
            x = torch.relu(self.norm(self.stem(x)))
            return self.head(torch.relu(self.layer1(self.down(x))).mean((2, 3)))


    def make():
        torch.manual_seed(0)
        return Net()


    build = resnet20 = resnet56 = mobilenet_v2 = make


    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.qkv, self.proj = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
            self.norm2, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)

        def forward(self, x):
            n, t, c = x.shape
            q, k, v = self.qkv(self.norm(x)).view(n, t, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + self.proj(y.transpose(1, 2).reshape(n, t, c))
            return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


    class Vit(nn.Module):
        def __init__(self, side=32, patch=8):
            super().__init__()
            self.patches = nn.Conv2d(3, 32, patch, patch)
            self.places = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2, 32))
            self.blocks = nn.Sequential(*(Attention() for _ in range(3)))
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 3)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2) + self.places
            return self.head(self.norm(self.blocks(x)).mean(1))


    class Caption(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.words = Net(8), nn.Embedding(50, 8)
            self.head = nn.Linear(8, 50)

        def forward(self, images, words):
            return self.head(self.words(words) + self.seen(images)[:, None])


    def caption():
        torch.manual_seed(0)
        return Caption()


    def vit():
        torch.manual_seed(0)
        return Vit()
''')
VIT = NET + textwrap.dedent("""
    def make():
        torch.manual_seed(0)
        return Vit(224, 32)
""")
SERIES = textwrap.dedent("""
    import torch
    from torch import nn


    def make():
        torch.manual_seed(0)
        layers = [nn.Conv1d(3, 12, 5, padding=2), nn.ReLU(), nn.Conv1d(12, 16, 5, stride=2), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 3))
""")
SPOTS = textwrap.dedent("""
    import torch
    from torch.utils.data import Dataset


    class Spots(Dataset):
        def __init__(self, count, seed):
            random = torch.Generator().manual_seed(seed)
            self.place = torch.rand(count, 2, generator=random)
            self.there = (torch.arange(count) % 4 > 0).float()
            self.images = 0.1 * torch.randn(count, 3, 16, 16, generator=random)
            for image, place, there in zip(self.images, (self.place * 15).round().int(), self.there):
                image[:, place[1], place[0]] += 3 * there

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return self.images[index], {"place": self.place[index], "there": self.there[index]}


    train, test = Spots(64, 0), Spots(32, 1)
""")
SPOT_NET = textwrap.dedent("""
    import torch
    from torch import nn


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU())
            self.place, self.sure = nn.Linear(256, 2), nn.Linear(256, 1)

        def forward(self, x):
            x = self.body(nn.functional.adaptive_avg_pool2d(x, 16))
            x = nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)
            return {"place": self.place(x), "sure": self.sure(x)}


    def make():
        torch.manual_seed(0)
        return Net()
""")
Maker = Callable[[Path, "Places"], None]


def pictures(folder: Path, count: int = 18, side: int = 40) -> None:
    """A folder for each of three classes in each of two splits; a class has a colour."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for number, name in enumerate(("fig", "lime", "plum")):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count // 3):
                pixels = random.integers(0, 90, (side, side, 3))
                pixels[8 : side - 8, 8 : side - 8, number] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")


def _one_split(path: Path, _: Places) -> None:
    """A folder for each class."""
    pictures(path.with_name(f"{path.name}.all"), 24)
    shutil.move(path.with_name(f"{path.name}.all") / "train", path)


def _plain_pictures(path: Path, _: Places) -> None:
    """One folder."""
    pictures(path.with_name(f"{path.name}.all"), 24)
    path.mkdir()
    for number, each in enumerate(sorted(path.with_name(f"{path.name}.all").rglob("*.png"))):
        shutil.move(each, path / f"{number}.png")


def _zip(path: Path, _: Places) -> None:
    folder = path.with_suffix(".files")
    pictures(folder)
    with zipfile.ZipFile(path, "w") as archive:
        for each in sorted(folder.rglob("*.png")):
            archive.write(each, each.relative_to(folder))


def _photo(path: Path, _: Places) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 80, 3)).astype(np.uint8)).save(path)


def _written(path: Path, text: str) -> None:
    path.write_text(text)


def _net(path: Path, _: Places) -> None:
    path.write_text(NET)


def _weights(path: Path, places: Places) -> None:
    from safetensors.torch import save_file

    save_file(places.network().state_dict(), path)


def _task(path: Path, places: Places) -> None:
    spec = f"{places.made('net.py', path.parent)}:make"
    es.prune(spec, density=0.5, input_shape=(1, 3, 32, 32), output=path, mean=[0.5] * 3, std=[0.3] * 3)


def _bundle(path: Path, places: Places) -> None:
    """Files of the network, of which one is proved on pictures."""
    made = places.kept("bundle", lambda at: _export(at, places))
    shutil.copytree(made, path)


def _export(path: Path, places: Places) -> None:
    es.export(
        places.network(), input_shape=(1, 3, 32, 32), formats=["onnx"], precisions=["fp32", "int8"],
        mean=[0.5] * 3, std=[0.3] * 3, calibration=str(places.made("photos", path.parent)), output=path,
    )  # fmt: skip


def _packed(path: Path, places: Places) -> None:
    pack(places.made("bundle", path.parent), path)


def _bundle_of_task(path: Path, places: Places) -> None:
    es.export(str(places.made(f"{path.name}.spa", path.parent)), formats=["onnx"], output=path)


def _packed_task(path: Path, places: Places) -> None:
    folder = path.parent / "packed" / path.stem
    es.export(str(places.made(f"{path.stem}.spa", path.parent)), formats=["onnx"], output=folder)
    pack(folder, path)


def _key(path: Path, _: Places) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _public_key(path: Path, places: Places) -> None:
    shutil.copyfile(f"{places.made('~/.ssh/id_ed25519', path.parent)}.pub", path)


def _signers(path: Path, places: Places) -> None:
    key = Path(f"{places.made('~/.ssh/id_ed25519', path.parent)}.pub").read_text()
    path.write_text(f"ada@example.com {key}")


def _series(path: Path, _: Places) -> None:
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        arrays[f"labels_{split}"] = np.arange(24) % 3
        arrays[f"x_{split}"] = random.standard_normal((24, 3, 64)).astype(np.float32)
    np.savez(path, **arrays)


def _batch(path: Path, _: Places) -> None:
    np.save(path, np.zeros((2, 3, 32, 32), np.float32))


def _common(path: Path, _: Places) -> None:
    path.write_text('version = 1\n[prune]\ninput-shape = ["1,3,32,32"]\n')


def _downloaded(path: Path, _: Places) -> None:
    path.parent.mkdir()
    (path.parent / "net.py").write_text(NET)
    path.write_text(
        'version = 1\n[prune]\nmodel = "net.py:make"\ninput-shape = "1,3,32,32"\ndensity = 0.5\noutput = "c.spa"\n'
    )


def _board(path: Path, places: Places) -> None:
    """A profile of the reader's own that leads to an sshd on the loopback interface."""
    path.parent.mkdir(parents=True, exist_ok=True)
    places.board(path)


def _examples(path: Path, _: Places) -> None:
    path.symlink_to(ROOT / "examples")


MADE: dict[str, Maker] = {
    "examples": _examples,
    "net.py": _net,
    "models.py": _net,
    "vit.py": lambda path, _: _written(path, VIT),
    "net.safetensors": _weights,
    "photos": _one_split,
    "pictures": _plain_pictures,
    "frames": _plain_pictures,
    "photos.zip": _zip,
    "pets": lambda path, _: pictures(path),
    "fashion": lambda path, _: pictures(path),
    "photo.jpg": _photo,
    "batch.npy": _batch,
    "series.npz": _series,
    "common.toml": _common,
    "task.spa": _task,
    "cut.spa": _task,
    "bundle": _bundle,
    "small": _bundle,
    "plain": _bundle,
    "other": _bundle,
    "birds": _bundle_of_task,
    "bundle.tar": _packed,
    "cats.tar": _packed_task,
    "birds.spa": _task,
    "cats.spa": _task,
    "~/.ssh/id_ed25519": _key,
    "ada.pub": _public_key,
    "signers": _signers,
    "kitchen": _board,
    "pi-4b": _board,
    "lab.toml": _board,
}
"""What a page may name -> how it is made."""
OF_PAGE: dict[tuple[str, str], Maker] = {
    ("docs/how-to/bring-data.md", "net.py"): lambda path, _: _written(path, SERIES),
    ("docs/how-to/bring-data.md", "one.npz"): lambda path, _: np.savez(path, x=np.zeros((1, 3, 64), np.float32)),
    ("docs/how-to/objectives.md", "net.py"): lambda path, _: _written(path, SPOT_NET),
    ("docs/how-to/objectives.md", "places.py"): lambda path, _: _written(path, SPOTS),
    ("docs/how-to/recipes.md", "downloads/recipe.toml"): _downloaded,
    ("docs/how-to/export.md", "photos"): lambda path, _: pictures(path),
}
"""The same for a page, where it says that the thing is another: (page, name)."""


class Places:
    """What has been made for a page, and what all pages share.

    Args:
        page: That is followed.
        shared: A folder for what takes long to make.
        board: Writes a profile that leads to a device.
    """

    def __init__(self, page: str, shared: Path, board: Callable[[Path], None]) -> None:
        self.page = page
        self.shared = shared
        self.board = board

    def prepare(self, text: str, folder: Path) -> None:
        """Make what a block names."""
        for name in sorted({*MADE, *(own for page, own in OF_PAGE if page == self.page)}):
            if _is_named(name, text) and not _is_result(name, text):
                self.made(name, folder)

    def made(self, name: str, folder: Path) -> Path:
        """A stand-in in a page's folder; what is there already stays."""
        path = folder / name
        if name.startswith("~"):
            path = Path(name).expanduser()
        elif MADE.get(name) is _board and not name.endswith(".toml"):
            path = Path(os.environ["XDG_CONFIG_HOME"]) / "edgespa" / "devices" / f"{name}.toml"
        if not path.exists():
            OF_PAGE.get((self.page, name), MADE.get(name, _net))(path, self)
        return path

    def kept(self, name: str, make: Callable[[Path], None]) -> Path:
        """Made once for all pages."""
        path = self.shared / name
        if not path.exists():
            self.shared.mkdir(parents=True, exist_ok=True)
            make(path)
        return path

    def network(self) -> Any:
        """The network of ``net.py:make``."""
        names: dict[str, Any] = {"__name__": "net"}
        exec(compile(NET, "net.py", "exec"), names)
        return names["make"]().eval()


def _is_named(name: str, text: str) -> bool:
    return re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-]|\.\w)", text) is not None


def _is_result(name: str, text: str) -> bool:
    """Whether the block makes it, before it uses it."""
    used = re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-]|\.\w)", text)
    made = re.search(
        rf"""(?:-o|--output|--save-\w+|> *|mkdir|output=|output =)\s*["']?{re.escape(name)}(?![\w-]|\.\w)""", text
    )
    return made is not None and used is not None and used.start() >= made.start()
