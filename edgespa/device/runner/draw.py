"""What a model says, drawn on the photograph; with Pillow alone, old ones too."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np

from edgespa.device.runner.answer import Result, percent
from edgespa.device.runner.bundle import RunnerError

# Far apart, also for most who see fewer colours: Okabe and Ito 2008, then others between them.
COLOURS = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)),
    *((148, 103, 189), (140, 86, 75), (127, 200, 60), (220, 40, 60), (60, 220, 210), (128, 128, 128), (250, 190, 190)),
)
COVER = 0.5  # of the colour of an area over the photograph
LEAST_SHARE = 0.002  # of an area that is in the legend
LONGEST = 28  # letters of a label
DARK, LIGHT = (20, 20, 20), (255, 255, 255)


def colour_of(index: int) -> tuple[int, int, int]:
    """The colour of a class, always the same."""
    if index < len(COLOURS):
        return COLOURS[index]
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.55 + 0.4 * (index % 2), 0.9)
    return int(255 * red), int(255 * green), int(255 * blue)


class Canvas:
    """A photograph that is drawn on; lines and letters are as large as suits it.

    Args:
        pixels: uint8 [H, W, C].

    Attributes:
        image: Of Pillow, RGB.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        from PIL import Image, ImageDraw

        plain = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3]
        self.image = Image.fromarray(np.ascontiguousarray(plain)).convert("RGB")
        self.pen = ImageDraw.Draw(self.image)
        side = (self.image.size[0] * self.image.size[1]) ** 0.5
        self.line = max(2, round(side / 250))
        self.letter = max(11, round(side / 32))
        self.gap = max(2, self.letter // 5)
        self._taken: list[tuple[float, float, float, float]] = []

    def text(self, words: str) -> Any:
        """Words as a mask of Pillow, a line high: the same height for all words."""
        from PIL import Image, ImageDraw

        font, scale = _font(self.letter)
        try:
            width = _width(font, words)
        except UnicodeError:  # old built-in letters are those of western Europe
            words = words.encode("latin-1", "replace").decode("latin-1")
            width = _width(font, words)
        mask = Image.new("L", (max(1, width), max(1, round(self.letter * 1.25 / scale))), 0)
        ImageDraw.Draw(mask).text((0, 0), words, fill=255, font=font)
        return mask if scale == 1 else mask.resize((mask.size[0] * scale, mask.size[1] * scale))

    def label(self, words: str, colour: tuple[int, int, int], places: list[tuple[float, float]]) -> None:
        """Words on a ground of that colour, at the first of some places where they hide no others.

        Args:
            words: Cut where they are very long.
            colour: Of the ground.
            places: Lower left corners.
        """
        mask = self.text(words)
        width, height = mask.size[0] + 2 * self.gap, mask.size[1] + self.gap
        most = [max(0, whole - size) for whole, size in zip(self.image.size, (width, height))]
        found = None
        for x, bottom in places:
            left, top = min(max(0, round(x)), most[0]), min(max(0, round(bottom) - height), most[1])
            own = (left, top, left + width, top + height)
            found = found or own
            if not any(_overlap(own, other) for other in self._taken):
                found = own
                break
        if found is None:
            return
        self._taken.append(found)
        self.pen.rectangle((found[0], found[1], found[2] - 1, found[3] - 1), fill=colour)
        self.image.paste(_ink(colour), (found[0] + self.gap, found[1] + self.gap // 2), mask)

    def box(self, corners: Any, colour: tuple[int, int, int]) -> None:
        """The edge of a box, the line inside of it."""
        x1, y1, x2, y2 = (round(each) for each in corners)
        for inset in range(self.line):
            if x2 - 1 - inset >= x1 + inset and y2 - 1 - inset >= y1 + inset:
                self.pen.rectangle((x1 + inset, y1 + inset, x2 - 1 - inset, y2 - 1 - inset), outline=colour)

    def caption(self, rows: list[str]) -> None:
        """Lines in the upper left corner."""
        bottom = 0.0
        for row in rows:
            height = self.text(row).size[1] + self.gap
            bottom += height
            self.label(row, DARK, [(0, bottom)])

    def cover(self, mask: np.ndarray, used: list[int]) -> None:
        """Areas in the colours of their classes, the photograph shining through; what was not looked at is darker."""
        from PIL import Image

        table = np.zeros((max(used, default=0) + 2, 3), np.uint8)  # the last one is that of what was not looked at
        for index in used:
            table[index] = colour_of(index)
        over = Image.fromarray(table[mask])
        self.image.paste(Image.blend(self.image, over, COVER))

    def legend(self, rows: list[tuple[str, tuple[int, int, int]]], widest: str) -> None:
        """A strip on the right with the names of colours, as wide whatever the rows are.

        Args:
            rows: Words and their colours; as many as there is room for.
            widest: The widest words that there may be.
        """
        from PIL import Image

        step = self.text(widest).size[1] + self.gap
        width = self.text(widest).size[0] + step + 4 * self.gap
        whole = Image.new("RGB", (self.image.size[0] + width, self.image.size[1]), LIGHT)
        whole.paste(self.image, (0, 0))
        left = self.image.size[0] + self.gap
        from PIL import ImageDraw

        self.image, self.pen = whole, ImageDraw.Draw(whole)
        for i, (words, colour) in enumerate(rows[: max(1, (whole.size[1] - self.gap) // step)]):
            top = self.gap + i * step
            self.pen.rectangle((left, top, left + step - 2 * self.gap, top + step - 2 * self.gap), fill=colour)
            self.image.paste(DARK, (left + step, top - self.gap // 2), self.text(words))


def draw(pixels: np.ndarray, result: Result, labels: list[str], skeleton: Any = ()) -> Any:
    """The photograph with what a model says of it.

    Args:
        pixels: uint8 [H, W, C], upright.
        result: Of that photograph.
        labels: All names.
        skeleton: Pairs of key points that a line connects.

    Returns:
        An image of Pillow in RGB; of areas it is wider by the legend; of a model that makes pictures its own, with one
        channel in 16 bits.

    Raises:
        RunnerError: There is nothing to draw.
    """
    answer, picture = result.answer, result.picture
    if picture is not None:
        return as_image(picture)
    canvas = Canvas(pixels)
    if "boxes" in answer:
        _draw_boxes(canvas, answer["boxes"])
    elif "points" in answer:
        _draw_points(canvas, answer["points"], skeleton)
    elif result.mask is not None:
        _draw_areas(canvas, result.mask, labels)
    elif "top" in answer:
        rows = [row for row in answer["top"] if row.get("present", True)]
        canvas.caption([f"{_short(row['label'])} {percent(row['probability'])}" for row in rows] or ["none"])
    elif "values" in answer:
        canvas.caption([f"{_short(row['label'])} {row['value']:.4g}" for row in answer["values"]])
    else:
        raise RunnerError(f"nothing can be drawn of what it learned ({result.learns}): leave out --output")
    return canvas.image


def as_image(picture: np.ndarray) -> Any:
    """Numbers of 0 to 1 as an image of Pillow: of three channels RGB, of one 16 bits, for depth is often dark."""
    from PIL import Image

    if picture.shape[2] not in (1, 3):
        raise RunnerError(f"a picture of {picture.shape[2]} channels cannot be drawn: leave out --output")
    cut = np.clip(picture, 0.0, 1.0)
    if picture.shape[2] == 1:
        return Image.fromarray(np.rint(cut[:, :, 0] * 65535).astype(np.uint16))
    return Image.fromarray(np.rint(cut * 255).astype(np.uint8))


def _draw_boxes(canvas: Canvas, rows: list[dict[str, Any]]) -> None:
    best = sorted(rows, key=lambda row: -row["score"])
    for row in reversed(best):
        canvas.box(row["box"], colour_of(row["index"]))
    for row in best:
        x1, y1, _, y2 = row["box"]
        inside = y1 + canvas.letter * 1.25 + canvas.gap
        places = [(x1, y1), (x1, inside), (x1, y2), (x1, y2 + canvas.letter * 1.25 + canvas.gap)]
        canvas.label(f"{_short(row['label'])} {percent(row['score'])}", colour_of(row["index"]), places)


def _draw_points(canvas: Canvas, rows: list[dict[str, Any]], skeleton: Any) -> None:
    seen = {row["index"]: (row["x"], row["y"]) for row in rows}
    for one, other in skeleton:
        if one in seen and other in seen:
            canvas.pen.line([seen[one], seen[other]], fill=DARK, width=canvas.line + 2)
            canvas.pen.line([seen[one], seen[other]], fill=LIGHT, width=canvas.line)
    radius = max(2.0, canvas.line * 1.5)
    for index, (x, y) in seen.items():
        for size, colour in ((radius + max(1, canvas.line // 2), DARK), (radius, colour_of(index))):
            canvas.pen.ellipse((x - size, y - size, x + size, y + size), fill=colour)


def _draw_areas(canvas: Canvas, mask: np.ndarray, labels: list[str]) -> None:
    seen = np.bincount((mask[mask >= 0]).reshape(-1), minlength=1)
    order = [int(index) for index in np.argsort(-seen, kind="stable") if seen[index]]
    canvas.cover(mask, order)
    shares = [(index, seen[index] / max(1, seen.sum())) for index in order]
    rows = [(f"{_label_of(i, labels)} {percent(s)}", colour_of(i)) for i, s in shares if s >= LEAST_SHARE]
    names = [_short(label) for label in labels] or ["999"]
    canvas.legend(rows, max(names, key=len) + " 100%")


def _label_of(index: int, labels: list[str]) -> str:
    return _short(labels[index] if index < len(labels) else str(index))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _ink(ground: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever is seen better on a ground."""
    return DARK if 0.299 * ground[0] + 0.587 * ground[1] + 0.114 * ground[2] > 140 else LIGHT


def _overlap(one: Any, other: Any) -> bool:
    return bool(one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3])


def _font(size: int) -> tuple[Any, int]:
    """Letters of about that size, and by what they have to be enlarged."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size), 1
    except (TypeError, OSError, ImportError):  # before Pillow 10.1, or without FreeType: letters of 11 pixels
        return ImageFont.load_default(), max(1, round(size / 11))


def _width(font: Any, words: str) -> int:
    if hasattr(font, "getlength"):
        return int(font.getlength(words)) + 1
    return int(font.getsize(words)[0])
