"""A bundle tells nobody the folders of the machine that made it, and none of its files can be executed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespa.bundle.places import _everywhere
from edgespa.bundle.whole import WholeFolder


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/jane/nets/net.py:build", "net.py:build"),
        ("/home/Jane Doe/my nets/net.py:build", "net.py:build"),
        ("~/nets/net.pt2", "net.pt2"),
        ("hf:/home/jane/vit/", "hf:vit"),
        ("hf:~/vit", "hf:vit"),
        ("/data/photos.zip:train", "photos.zip:train"),
        ("64 images of /data/my photos/fruit:test", "64 images of fruit:test"),
        ("trained on /a/b/c.npz, seed 1", "trained on c.npz, seed 1"),
        ("/net.py:build", "net.py:build"),
    ],
)
def test_absolute_paths_lose_their_folders(text: str, told: str) -> None:
    assert _everywhere({"a": [text]}) == {"a": [told]}


@pytest.mark.parametrize(
    "text",
    [
        "nets/net.py:build",
        "../nets/net.py:build",
        "./net.py:build",
        "timm:resnet18",
        "hf:google/vit-base",
        "https://example.org/a/b/c",
        "digits:train",
        "layer1/conv/weight",
        "1 / 2",
        "accuracy/R2",
    ],
)
def test_all_else_stays(text: str) -> None:
    assert _everywhere(text) == text


def test_files_have_the_rights_of_their_folder(tmp_path: Path) -> None:
    with WholeFolder(tmp_path / "b") as writer:
        for name, mode in (("a", 0o777), ("b", 0o600), ("c", 0o644)):
            (writer.path / name).write_text("x")
            (writer.path / name).chmod(mode)
        writer.install()
    wanted = (tmp_path / "b").stat().st_mode & 0o666
    assert [(tmp_path / "b" / name).stat().st_mode & 0o777 for name in "abc"] == [wanted] * 3
