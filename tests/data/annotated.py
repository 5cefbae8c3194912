"""One set of pictures and boxes, as each tool would write it."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Files = dict[str, bytes]
CLASSES = ("cat", "dog", "emu")
SIZES = {"a": (40, 60), "b": (40, 60), "c": (30, 20), "d": (40, 60)}  # height, width
BOXES = {  # class, x1, y1, x2, y2
    "a": [(0, 4, 8, 20, 30), (2, 30, 10, 60, 40)],
    "b": [(1, 0, 0, 60, 40)],
    "c": [],
    "d": [(2, 12, 6, 18, 12), (2, 20, 20, 32, 26)],
}
SPLITS = {"train": ("a", "b", "c"), "val": ("d",)}


def picture(size: tuple[int, int], turn: int = 1, kind: str = "JPEG") -> bytes:
    """An image as it is stored, height and width; EXIF says how it is turned."""
    exif = Image.Exif()
    exif[0x0112] = turn
    stream = io.BytesIO()
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(stream, kind, exif=exif)
    return stream.getvalue()


def xml(boxes: list[tuple[Any, ...]], size: tuple[int, int] | None, name: str = "x.jpg", more: str = "") -> bytes:
    """Pascal VOC: pixels counted from 1, both ends inside."""
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>" if size else ""
    objects = "".join(
        f"\n<object><name>{CLASSES[label] if isinstance(label, int) else label}</name><difficult>{int(len(box) > 4)}"
        f"</difficult><bndbox><xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin><xmax>{box[2]}</xmax>"
        f"<ymax>{box[3]}</ymax></bndbox></object>"
        for label, *box in boxes
    )
    return f"<annotation><filename>{name}</filename>{sides}{more}{objects}\n</annotation>".encode()


def voc() -> Files:
    made = {f"JPEGImages/{name}.jpg": picture(size) for name, size in SIZES.items()}
    made |= {f"Annotations/{name}.xml": xml(boxes, SIZES[name], f"{name}.jpg") for name, boxes in BOXES.items()}
    lists = {f"ImageSets/Main/{split}.txt": "\n".join(names).encode() for split, names in SPLITS.items()}
    return {**made, **lists, "ImageSets/Main/cat_train.txt": b"a 1\nb -1\n"}


def voc_beside() -> Files:
    """As Roboflow writes it."""
    made: Files = {}
    for split, names in SPLITS.items():
        for name in names:
            made[f"{split}/{name}.jpg"] = picture(SIZES[name])
            made[f"{split}/{name}.xml"] = xml(BOXES[name], SIZES[name])
    return made


def document(names: tuple[str, ...], folder: str = "", ids: tuple[int, ...] = (3, 7, 9)) -> dict[str, Any]:
    annotations = [
        {"image_id": name, "category_id": ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
        for name in names
        for label, x1, y1, x2, y2 in BOXES[name]
    ]
    return {
        "info": {},
        "images": [
            {"id": name, "file_name": f"{folder}{name}.jpg", "height": SIZES[name][0], "width": SIZES[name][1]}
            for name in names
        ],
        "annotations": [{"id": number, **each} for number, each in enumerate(annotations)],
        "categories": [{"id": key, "name": name} for key, name in zip(ids, CLASSES, strict=True)][::-1],
    }


def coco() -> Files:
    made: Files = {}
    for split, names in SPLITS.items():
        made |= {f"{split}2017/{name}.jpg": picture(SIZES[name]) for name in names}
        made[f"annotations/instances_{split}2017.json"] = json.dumps(document(names)).encode()
        made[f"annotations/captions_{split}2017.json"] = b'{"images": [], "annotations": [], "categories": []}'
    return made


def coco_beside() -> Files:
    """As Roboflow writes it, with a category that stands for all others."""
    made: Files = {}
    for split, names in SPLITS.items():
        whole = document(names)
        for each in whole["categories"]:
            each["supercategory"] = "animals"
        whole["categories"].append({"id": 0, "name": "animals", "supercategory": "none"})
        made |= {f"{split}/{name}.jpg": picture(SIZES[name]) for name in names}
        made[f"{split}/_annotations.coco.json"] = json.dumps(whole).encode()
    return made


def lines(name: str) -> bytes:
    height, width = SIZES[name]
    return "".join(
        f"{label} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}\n"
        for label, x1, y1, x2, y2 in BOXES[name]
    ).encode()


def yolo(order: str = "{kind}/{split}/{name}") -> Files:
    made: Files = {}
    for split, names in SPLITS.items():
        for name in names:
            made[order.format(kind="images", split=split, name=name) + ".jpg"] = picture(SIZES[name])
            if BOXES[name]:
                made[order.format(kind="labels", split=split, name=name) + ".txt"] = lines(name)
    at = order.format(kind="images", split="{}", name="")
    paths = "".join(f"{split}: ../{at.format(split)}\n" for split in SPLITS)
    return {**made, "data.yaml": f"{paths}nc: 3\nnames: {list(CLASSES)}\n".encode()}


def yolo_named() -> Files:
    """Without a file that says where splits lie."""
    made = yolo()
    del made["data.yaml"]
    return {**made, "classes.txt": "\n".join(CLASSES).encode()}


LAYOUTS = {
    "voc": voc,
    "voc beside": voc_beside,
    "coco": coco,
    "coco beside": coco_beside,
    "yolo": yolo,
    "yolo below": lambda: yolo("{split}/{kind}/{name}"),
    "yolo beside": lambda: yolo("{split}/{name}"),
    "yolo named": yolo_named,
}


def written(files: Files, path: Path, zipped: bool = False, top: str = "") -> Path:
    """Files in a folder, or in a zip."""
    if zipped:
        target = path / "set.zip"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(f"{top}{name}", content)
        return target
    target = path / "set"
    for name, content in files.items():
        (target / top / name).parent.mkdir(parents=True, exist_ok=True)
        (target / top / name).write_bytes(content)
    return target
