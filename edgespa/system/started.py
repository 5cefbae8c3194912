"""How this program was started, so that a line that is printed can be typed: from which path, with which Python."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

NAME = "edgespa"
_EXTRAS = re.compile(rf"(?<!-m )pip install '{NAME}\[([a-z,]+)\]'")
"""As hints have it; what is typed here already, ``python -m pip ...``, stays."""
_TORCH_INDEX = "https://download.pytorch.org/whl/"
_NEEDS_TORCHVISION = "timm"


def program() -> str:
    """What to type for ``edgespa``: its name where the shell finds it, else its path, or ``python -m edgespa``.

    Where something else was started (a script, a notebook), it is the name.
    """
    path = Path(sys.argv[0] if sys.argv else "")
    if path.name == "__main__.py" and path.parent.name == NAME:
        return f"{python()} -m {NAME}"
    if path.stem != NAME or not path.is_file():
        return NAME
    found = shutil.which(NAME)
    return NAME if found is not None and _same(found, path) else shlex.quote(near(path))


def python() -> str:
    """What to type for the Python that runs this: its name where the shell finds it, else its path."""
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found is not None and _same(found, sys.executable):
            return name
    return shlex.quote(near(sys.executable)) if sys.executable else "python"


def near(path: str | Path) -> str:
    """A path as one types it: from the current folder where it lies in there, else as it is.

    Args:
        path: Of a program, so that one without a folder gets ``./``.
    """
    try:
        relative = os.path.relpath(path)
    except OSError:  # the current folder is gone
        return str(path)
    if relative.startswith(os.pardir):
        return str(path)
    return relative if os.sep in relative else os.path.join(os.curdir, relative)


def installing(extras: str) -> str:
    """What to type to install extras beside the torch that is there, instead of replacing it by a build of gigabytes.

    Args:
        extras: Their names, with commas.
    """
    pip = f"{python()} -m pip install" if importlib.util.find_spec("pip") else f"uv pip install --python {python()}"
    version, _, build = _torch().partition("+")
    # torchvision's binaries belong to one build of torch, and those of a build lie in an index of their own.
    index = f" --extra-index-url {_TORCH_INDEX}{build}" if build and _NEEDS_TORCHVISION in extras.split(",") else ""
    root = Path(__file__).parents[2]
    constraints = root / "constraints.txt"
    if (root / "pyproject.toml").is_file() and _pinned(constraints) in (version, ""):
        here = os.path.relpath(root)
        folder = str(root) if here.startswith(os.pardir) else here
        listed = shlex.quote(os.path.normpath(os.path.join(folder, constraints.name)))
        return f"{pip}{index} -c {listed} -e {_quoted(f'{folder}[{extras}]')}"
    return f"{pip}{index} '{NAME}[{extras}]'" + (f" torch=={version}" if version else "")


def extras_of(variants: Iterable[str], runtimes: Iterable[str] = ()) -> str:
    """The extras that bring what runs files, with commas.

    Args:
        variants: Their names, which begin with the format: ``tflite-int8``.
        runtimes: Those that were asked for by name; they count before the formats.
    """
    named = [_EXTRA_OF_RUNTIME[each] for each in runtimes if each in _EXTRA_OF_RUNTIME]
    return ",".join(dict.fromkeys(named or [name.partition("-")[0] for name in variants]))


_EXTRA_OF_RUNTIME = {
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "executorch": "executorch",
    "ai_edge_litert": "tflite",
}


def with_extras(text: str) -> str:
    """A text with each ``pip install 'edgespa[...]'`` in it as it is typed here, see `installing`.

    Args:
        text: A hint.
    """
    return _EXTRAS.sub(lambda match: installing(match[1]), text)


def _quoted(text: str) -> str:
    # Always: some shells take brackets for a pattern, even where shlex sees no need.
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _pinned(constraints: Path) -> str | None:
    """The torch of a constraints file, empty where it has none; None without the file."""
    if not constraints.is_file():
        return None
    found = re.search(r"^torch==(\S+)", constraints.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def _torch() -> str:
    import importlib.metadata  # here, for it takes as long as half of click

    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _same(one: str | Path, other: str | Path) -> bool:
    # Links are not followed: the Python of an environment is a link to one that has nothing installed.
    try:
        return os.path.abspath(one) == os.path.abspath(other)
    except OSError:  # the current folder is gone
        return str(one) == str(other)
