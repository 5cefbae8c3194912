"""What a bundle's files say of some inputs, beside what the original says: as pictures, the worst disagreements first.

Inputs are those that the bundle recorded, with the program's own outputs; or a user's images, where the float32 file
stands for the program that it was proved to be. Files may be anybody's, so they are read and run in a process of its
own (``python -m edgespa.reports.examples``, asked in JSON over stdin), which bounds its memory and time.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.bundle import Manifest
from edgespa.device import runner
from edgespa.device.runner.answer import Reader, Result, brief
from edgespa.device.runner.arrays import Allowed, read_recorded
from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.check import read_samples
from edgespa.device.runner.confine import limit_memory, limit_time, memory_for
from edgespa.device.runner.draw import draw
from edgespa.device.runner.model import Opened
from edgespa.device.runner.models import infer, open_model
from edgespa.device.runner.runtimes import import_runtime
from edgespa.errors import DeviceError
from edgespa.pixels.values import to_pixels
from edgespa.reports.disagreement import disagreement
from edgespa.reports.page.parts import Picture
from edgespa.system.isolated import NoAnswerError, answer_of

MOST = 24
"""Pictures of a bundle."""
MOST_BYTES = 1 << 20
"""Of a picture, as the page has it."""
LONGEST_SIDE = 320
SMALL = 64  # a picture below that is enlarged without smoothing
ROOMY = 180  # and one that is drawn on below that
MOST_FILES = 8
DRAWN_FILES = 3
ORIGINAL = "the original"


@dataclasses.dataclass(frozen=True)
class Examples:
    """What came of it.

    Attributes:
        pictures: Of at most so many inputs as were asked for.
        what: In words, which inputs these are and what the original is.
        remarks: What could not be shown, and why.
    """

    pictures: tuple[Picture, ...]
    what: str
    remarks: tuple[str, ...]


def show_examples(
    folder: Path,
    manifest: Manifest,
    count: int,
    *,
    images: Sequence[NDArray[np.uint8]] = (),
    names: Sequence[str] = (),
    timeout_s: float = 300.0,
) -> Examples:
    """Run a bundle's files on its recorded inputs, or on images, and draw what they say.

    Args:
        folder: Of the bundle, whose files have been checked.
        manifest: Its manifest.
        count: Inputs to show.
        images: ``[H, W, C]`` each, upright; none for what was recorded.
        names: Of these images.
        timeout_s: End it after so long.

    Raises:
        DeviceError: The files do not run so.
    """
    asked = {
        "folder": str(folder.absolute()),
        "count": min(count, MOST),
        "seconds": timeout_s,
        "names": list(names),
        "images": [_packed(each) for each in images],
    }
    try:
        answer = answer_of(__name__, asked=asked)
    except NoAnswerError as error:
        raise DeviceError(f"what its files say cannot be shown: {error}", "leave examples out: --examples 0") from error
    return Examples(
        tuple(_picture(each) for each in answer["pictures"][:MOST]),
        str(answer["what"])[:300],
        tuple(str(each)[:300] for each in answer["remarks"][:20]),
    )


def _picture(told: Any) -> Picture:
    """A picture as the process told it; its files are a stranger's, so it is looked at again."""
    uri = str(told["uri"])
    head, comma, rest = uri.partition(",")
    if head not in _HEADS or not comma or len(uri) > 2 * MOST_BYTES or not rest.isascii() or set(rest) - _BASE64:
        raise DeviceError("an example is no picture", "leave examples out: --examples 0")
    lines = tuple(
        (str(text)[:400], mark if mark in ("good", "bad", "doubt") else "") for text, mark in told["lines"][:20]
    )
    return Picture(
        uri, str(told["alt"])[:400], lines, tuple(_picture(each) for each in told.get("more", ())[:DRAWN_FILES])
    )


_HEADS = ("data:image/png;base64", "data:image/jpeg;base64")
_BASE64 = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


def _packed(image: NDArray[np.uint8]) -> dict[str, Any]:
    return {
        "shape": list(image.shape),
        "bytes": base64.b64encode(np.ascontiguousarray(image, np.uint8).tobytes()).decode(),
    }


def _unpacked(told: Any) -> NDArray[np.uint8]:
    return np.frombuffer(base64.b64decode(told["bytes"]), np.uint8).reshape(told["shape"])


@dataclasses.dataclass
class _Said:
    """What was said of all inputs: by the original first, then by each file."""

    pixels: list[NDArray[np.uint8]]
    original: list[Result]
    files: dict[str, list[Result]]
    labels: list[str]
    remarks: list[str]


def _by_recorded(folder: Path, manifest: dict[str, Any]) -> _Said:
    arrays = read_recorded(folder / "selfcheck.npz", Allowed(manifest))
    said = _Said([], [], {}, [], [])
    recorded = read_samples(folder, manifest)
    pixels = _pictures_of(arrays, recorded.inputs[0], manifest.get("preprocessing"))
    if pixels is None:
        said.remarks.append("no examples: the inputs that it recorded are no pictures (give some with --images)")
        return said
    said.pixels = [np.moveaxis(each, 0, -1) for each in pixels]
    whole = not recorded.every  # of large outputs only some numbers are recorded, which say nothing
    reader = Reader(folder, manifest, {"outputs": manifest["outputs"]})
    said.labels = reader.labels
    if whole:
        said.original = reader.read(recorded.outputs)
    for variant in _runnable(manifest, said):
        with _told(said, variant["name"]):
            model = open_model(folder, variant, 1, import_runtime(variant["format"])[0])
            said.files[variant["name"]] = Reader(folder, manifest, variant).read(infer(model, recorded.inputs))
    return said


def _pictures_of(arrays: dict[str, Any], inputs: NDArray[Any], how: dict[str, Any] | None) -> NDArray[np.uint8] | None:
    """The recorded inputs as pictures [N, C, H, W] in red, green and blue; None where they are noise, or no images."""
    pixels = arrays.get("pixels_0")
    if pixels is None and how is not None and "input_0" in arrays and inputs.ndim == 4:
        pixels = to_pixels(inputs, how)
    if pixels is None or pixels.ndim != 4 or pixels.shape[1] not in (1, 3, 4):
        return None
    turned = (how or {}).get("channel_order") == "bgr" and pixels.shape[1] >= 3
    return np.concatenate([pixels[:, 2::-1], pixels[:, 3:]], axis=1) if turned else np.asarray(pixels)


def _by_images(folder: Path, manifest: dict[str, Any], images: Sequence[NDArray[np.uint8]]) -> _Said:
    said = _Said(list(images), [], {}, [], [])
    for variant in _runnable(manifest, said):
        with _told(said, variant["name"]):
            opened = Opened(folder, manifest, variant)
            said.labels = opened.reader.labels
            said.files[variant["name"]] = [opened.see(each) for each in images]
    return said


class _told:
    """A file that does not run is told, and stops no other."""

    def __init__(self, said: _Said, name: str) -> None:
        self.said, self.name = said, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        self.said.files.pop(self.name, None)
        self.said.remarks.append(f"{self.name}: {str(error) or type(error).__name__}")
        return True


def _runnable(manifest: dict[str, Any], said: _Said) -> list[dict[str, Any]]:
    found = []
    for variant in manifest["variants"]:
        if variant.get("weights"):
            continue
        try:
            import_runtime(variant["format"])
            found.append(variant)
        except RunnerError as error:
            said.remarks.append(f"{variant['name']}: {error}")
    if len(found) > MOST_FILES:
        said.remarks.append(f"examples are of {MOST_FILES} of its {len(found)} files")
    return found[:MOST_FILES]


def _examples(folder: Path, manifest: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    images = [_unpacked(each) for each in asked["images"]]
    said = _by_images(folder, manifest, images) if images else _by_recorded(folder, manifest)
    what = f"{len(said.pixels)} recorded inputs; the original is the program that the files were made from"
    if not said.original and said.files:
        exact = [
            each["name"] for each in manifest["variants"] if each["precision"] == "fp32" and each["name"] in said.files
        ]
        if not exact:
            said.remarks.append("no examples: there is no float32 file that runs here, to compare with")
            return {"pictures": [], "what": "", "remarks": said.remarks}
        said.original = said.files.pop(exact[0])
        of = f"{len(images)} images" if images else "recorded inputs"
        what = f"{of}; the original is {exact[0]}, which was proved to be the program"
    if not said.original or not _can_be_drawn(said.original[0]):
        if said.pixels:
            said.remarks.append(f"no examples: what it learned ({manifest.get('learns')}) has no form as a picture")
        return {"pictures": [], "what": "", "remarks": said.remarks}
    order = sorted(range(len(said.original)), key=lambda i: (-_worst(said, i), i))[: asked["count"]]
    names = asked["names"] or [f"sample {i + 1}" for i in range(len(said.pixels))]
    skeleton = manifest.get("skeleton", ())
    return {"pictures": [_shown(said, i, names[i], skeleton) for i in order], "what": what, "remarks": said.remarks}


def _can_be_drawn(result: Result) -> bool:
    return (
        any(key in result.answer for key in ("top", "values", "boxes", "points", "areas")) or result.picture is not None
    )


def _worst(said: _Said, at: int) -> float:
    return max((disagreement(said.original[at], each[at]) for each in said.files.values()), default=0.0)


def _shown(said: _Said, at: int, name: str, skeleton: Any) -> dict[str, Any]:
    """An input, what the original says, and what each file says; drawn, where it is drawn on the picture."""
    original, pixels = said.original[at], said.pixels[at]
    rows = [(file, results[at]) for file, results in said.files.items()]
    rows.sort(key=lambda row: -disagreement(original, row[1]))
    if "top" in original.answer or "values" in original.answer:
        lines = [[f"{ORIGINAL}: {_brief(original)}", ""]]
        lines += [[f"{file}: {_brief(result)}", _mark(disagreement(original, result))] for file, result in rows]
        return {"uri": _uri(_plain(pixels)), "alt": name, "lines": [[name, ""], *lines]}

    def drawn(who: str, result: Result, mark: str) -> dict[str, Any]:
        picture = draw(*enlarged(pixels, result), said.labels, skeleton)
        return {"uri": _uri(picture), "alt": f"{name}: {who}", "lines": [[f"{who}: {_brief(result)}", mark]]}

    first = drawn(f"{name}, {ORIGINAL}", original, "")
    more = [drawn(file, result, _mark(disagreement(original, result))) for file, result in rows[:DRAWN_FILES]]
    return {**first, "more": more}


def enlarged(pixels: NDArray[np.uint8], result: Result) -> tuple[NDArray[np.uint8], Result]:
    """A small picture and what is said of it, so many whole times as large that lines and letters have room."""
    times = -(-ROOMY // max(pixels.shape[:2]))
    if times == 1:
        return pixels, result
    answer = dict(result.answer)
    if "boxes" in answer:
        answer["boxes"] = [{**row, "box": [times * side for side in row["box"]]} for row in answer["boxes"]]
    if "points" in answer:
        answer["points"] = [{**row, "x": times * row["x"], "y": times * row["y"]} for row in answer["points"]]
    mask = None if result.mask is None else result.mask.repeat(times, 0).repeat(times, 1)
    larger = Result(result.learns, answer, result.outputs, classes=mask)
    return pixels.repeat(times, 0).repeat(times, 1), larger


def _brief(result: Result) -> str:
    if "top" in result.answer and not any("present" in row for row in result.answer["top"]):
        rows = result.answer["top"][:2]
        return ", ".join(f"{row['label']} {row['probability']:.0%}" for row in rows)
    text = brief(result)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _mark(found: float) -> str:
    return "bad" if found >= 0.5 else "doubt" if found >= 0.05 else "good"


def _plain(pixels: NDArray[np.uint8]) -> Any:
    from PIL import Image

    shown = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3]
    return Image.fromarray(np.ascontiguousarray(shown)).convert("RGB")


def _uri(picture: Any) -> str:
    from PIL import Image

    if picture.mode.startswith("I"):
        picture = picture.point(lambda value: value * (255 / 65535)).convert("L")
    side = max(picture.size)
    if side < SMALL:
        times = -(-SMALL * 2 // side)
        picture = picture.resize((picture.size[0] * times, picture.size[1] * times), Image.Resampling.NEAREST)
    else:
        picture.thumbnail((LONGEST_SIDE * 2, LONGEST_SIDE * 2))
    stream = io.BytesIO()
    kind = "PNG" if side < SMALL else "JPEG"
    picture.convert("RGB").save(stream, format=kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def main() -> None:
    """Answer what is asked on stdin by a line of JSON."""
    asked = json.load(sys.stdin)
    folder = Path(asked["folder"])
    manifest = runner.read_bundle(folder)
    limit_memory(2 * memory_for(folder, manifest["variants"], 1))
    limit_time(float(asked["seconds"]))
    print(json.dumps(_examples(folder, manifest, asked)))  # noqa: T201


if __name__ == "__main__":
    main()
