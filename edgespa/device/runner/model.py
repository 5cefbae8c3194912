"""A model for programs: ``import run; model = run.Model(folder); model(image)``."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.answer import Reader, Result
from edgespa.device.runner.bundle import RunnerError, altered, at_size, read_bundle
from edgespa.device.runner.draw import draw
from edgespa.device.runner.inputs import fitted_arrays, picture_input, pixels_of, read_arrays
from edgespa.device.runner.models import infer, open_model, running
from edgespa.device.runner.runtimes import choose, import_runtime
from edgespa.device.runner.weights import beyond, task_files, wrong_base
from edgespa.pixels.placement import Placement, placed

HERE = Path(os.path.abspath(__file__)).parent  # a link that leads to this version stays a link
LOG = logging.getLogger("edgespa.run")


class Opened:
    """One variant of one version, ready to run.

    Args:
        folder: Of the bundle.
        manifest: Of the bundle.
        variant: Of the manifest.
        threads: Of the runtime.
        count: Classes that are named.
        least: Boxes and key points below that score are left out; see `Reader`.
        runtime: Its name; the usual one of the format where nothing is said.
    """

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        variant: dict[str, Any],
        threads: int = 1,
        count: int = 5,
        least: float | None = None,
        runtime: str | None = None,
    ) -> None:
        self.folder, self.manifest, self.variant = folder, manifest, variant
        self.how = manifest.get("preprocessing")
        self.reader = Reader(folder, manifest, variant, count, least)
        found, self.runtime = import_runtime(variant["format"], runtime or variant.get("picked"))
        self._model = open_model(folder, variant, threads, found)

    def see(self, pixels: np.ndarray) -> Result:
        """What is said of a picture, uint8 [H, W, C]."""
        if self.how is None:
            raise RunnerError(
                "the manifest does not say how an image becomes this model's input: give a .npy or .npz file"
            )
        place = placed(pixels.shape[:2], self.how)
        return self._run([picture_input(pixels, self.how)], place)[0]

    def take(self, arrays: list[np.ndarray], where: str = "the list") -> list[Result]:
        """What is said of the samples of arrays as the program takes them, one for each input."""
        return self._run(fitted_arrays(arrays, self.manifest["inputs"], where), None)

    def file(self, path: Path) -> tuple[list[Result], np.ndarray | None]:
        """What is said of a file, an image or arrays; and the pixels of the image."""
        if path.suffix.lower() in (".npy", ".npz"):
            return self._run(read_arrays(path, self.manifest["inputs"]), None), None
        pixels = pixels_of(path)
        return [self.see(pixels)], pixels

    @property
    def draws(self) -> bool:
        """Whether there is something to draw on a picture."""
        return self.how is not None and self.reader.draws

    def draw(self, pixels: np.ndarray, result: Result) -> Any:
        """The picture with what is said of it: an image of Pillow."""
        return draw(pixels, result, self.reader.labels, self.manifest.get("skeleton", ()))

    def try_out(self) -> None:
        """One run, of nothing: what loads may still not run."""
        blank = [
            np.zeros([size if isinstance(size, int) else 1 for size in spec["shape"]], spec["dtype"])
            for spec in self.manifest["inputs"]
        ]
        with running(self.variant):
            infer(self._model, blank)

    def _run(self, arrays: list[np.ndarray], place: Placement | None) -> list[Result]:
        with running(self.variant):
            outputs = infer(self._model, arrays)
        return self.reader.read(outputs, place)


class Model:
    """A bundle's model, for programs: called with an image it says what it sees.

    Before each call it is looked whether the folder leads to another version, as ``current`` does after ``edgespa
    ship`` and ``rollback``. The new one is opened whole and run once before it takes the place of the old one; where
    that fails, the old one stays in use, and the logger ``edgespa.run`` says so, once. Calls are made one after the
    other, from whatever threads; for several at once, make several.

    Args:
        folder: Of a bundle, or a link to one; that of this file where nothing is said.
        variant: Its name; the first that can run here where nothing is said.
        threads: Of the runtime; None for those of what is picked, or one.
        top: Classes that are named, the likeliest so many.
        score: Boxes and key points below it are left out; boxes below 0.3 where nothing is said.
        size: Of the input, "160x160", where files take several; the first where nothing is said.

    Raises:
        RunnerError: The folder is no bundle, it was damaged, or no variant can run here.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        variant: str | None = None,
        threads: int | None = None,
        top: int = 5,
        score: float | None = None,
        size: str | None = None,
    ) -> None:
        self._folder = Path(os.path.abspath(HERE if folder is None else folder))
        self._asked = (variant, threads, top, score, size)
        self._lock = threading.Lock()
        self._key = self._look()
        self._refused: Any = None
        self._opened = self._open()

    def __call__(self, image: Any) -> Result:
        """What the model says of one sample.

        Args:
            image: A path; an image of Pillow; uint8 [H, W, 3] in RGB, [H, W, 4], [H, W, 1] or [H, W]. Or, for any
                model, a list of arrays as its program takes them, one for each input.

        Raises:
            RunnerError: The image cannot be read, or is none for this model; the model does not run.
        """
        with self._lock:
            opened = self._newest()
            if isinstance(image, (list, tuple)):
                results = opened.take([np.asarray(array) for array in image])
                if len(results) != 1:
                    raise RunnerError(f"the list holds {len(results)} samples: give one at a time")
                return results[0]
            if isinstance(image, (str, os.PathLike)):
                return opened.file(Path(image))[0][0]
            return opened.see(pixels_of(image))

    def draw(self, image: Any, result: Result) -> Any:
        """The image with what is said of it, an image of Pillow in RGB."""
        return self._opened.draw(pixels_of(image), result)

    @property
    def folder(self) -> Path:
        """Of the version in use."""
        return self._opened.folder

    @property
    def variant(self) -> str:
        """Name of the variant in use."""
        return str(self._opened.variant["name"])

    @property
    def learns(self) -> str:
        """What it has learned, such as ``classes``."""
        return self._opened.reader.learns

    @property
    def labels(self) -> list[str]:
        """Names of the classes; empty where they are not known."""
        return list(self._opened.reader.labels)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the input; None where it is no image."""
        return self._opened.reader.size

    def _look(self) -> Any:
        """What tells one version from another: which folder it is, and which manifest lies there."""
        try:
            folder, found = os.stat(self._folder), os.stat(self._folder / "manifest.json")
            return folder.st_dev, folder.st_ino, found.st_ino, found.st_mtime_ns, found.st_size
        except OSError:
            return None

    def _newest(self) -> Opened:
        key = self._look()
        if key not in (self._key, self._refused):
            try:
                if key is None:
                    raise RunnerError("the bundle is not there any more")
                self._opened, self._key, self._refused = self._open(), key, None
            except Exception as error:  # whatever it is: there is one that works
                self._refused = key
                LOG.warning("%s: the new version is not used, the one before is: %s", self._folder, error)
        elif key == self._key:
            self._refused = None
        return self._opened

    def _open(self) -> Opened:
        name, threads, top, score, size = self._asked
        folder = Path(os.path.realpath(self._folder))  # all of it from one version, whatever happens meanwhile
        manifest = at_size(read_bundle(folder), size)
        try:
            variant = choose(manifest, name)
            wrong = altered(folder, manifest, task_files(variant)) + wrong_base(folder, variant)
            wrong = wrong or beyond(folder, manifest, variant)
            if wrong:
                raise RunnerError(f"{folder}: {'; '.join(wrong)}")
            opened = Opened(folder, manifest, variant, threads or variant.get("threads") or 1, top, score)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise RunnerError(f"manifest.json is not as edgespa writes it: {type(error).__name__}: {error}") from error
        opened.try_out()
        return opened


def forget_bytecode(cached: str | None) -> None:
    """Take away what Python has kept of an imported ``run.py``: a version holds what was shipped and nothing else.

    Args:
        cached: The file that Python keeps it in.
    """
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__")
    if not cached or os.path.abspath(os.path.dirname(cached)) != folder:
        return
    try:
        os.unlink(cached)
        os.rmdir(folder)
    except OSError:  # nothing was kept, or others lie there
        return
