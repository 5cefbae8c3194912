"""The user's own Python code, named by ``path/file.py:name`` or ``package.module:name``.

Models and data sets are both named that way; this file finds the object and runs it, and turns whatever goes wrong
in code that is not ours into one message that names the file, the object and the line.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from edgespa.errors import EdgespaError
from edgespa.system.files import expanded

_FILE_SPEC = re.compile(r"(?P<path>.+\.py)(?::(?P<name>[^:/\\]*))?", re.DOTALL)
_MODULE_SPEC = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
_LISTED = 8


@dataclass(frozen=True)
class UserObject:
    """Something found in the user's code.

    Attributes:
        value: The object itself: a factory, a class, or a finished instance.
        spec: The spec that named it, as typed.
        folder: The folder that its code may import from while it runs (the file's own, or the current one).
        first: True if ``folder`` goes before the installed packages, as for a script; False if after them.
        error: The error class that failures are reported as.
    """

    value: Any
    spec: str
    folder: Path
    first: bool
    error: type[EdgespaError]

    def call(self) -> Any:
        """Call the object without arguments, with its folder importable.

        Returns:
            What the call returned.

        Raises:
            EdgespaError: Of class ``error``, chained to what the user's code raised.
        """
        with _importable(self.folder, self.first), _reported(f"{self.spec} failed", self.folder, self.error):
            return self.value()


def split_file_spec(spec: str) -> tuple[str, str] | None:
    """Split ``path/file.py:name``.

    Args:
        spec: Any spec.

    Returns:
        Path and name (empty if there is none), or None if ``spec`` does not name a Python file.
    """
    match = _FILE_SPEC.fullmatch(spec)
    return (match["path"], match["name"] or "") if match else None


def library_name(spec: str) -> tuple[str, str, int | None]:
    """Split ``timm:resnet18,classes=10``.

    Args:
        spec: Any spec.

    Returns:
        What is in front of the first colon; the name behind it; and for how many classes the model's last layer is to
        be made, None for as many as it has.
    """
    library, _, name = spec.partition(":")
    match = _CLASSES.fullmatch(name)
    return (library, match["name"], int(match["count"])) if match else (library, name, None)


_CLASSES = re.compile(r"(?P<name>[^,].*),classes=(?P<count>[1-9]\d{0,5})")


def is_module_spec(spec: str) -> bool:
    """True if ``spec`` has the form ``package.module:name`` (which says nothing about whether it exists)."""
    return _MODULE_SPEC.fullmatch(spec) is not None


def module_exists(spec: str) -> bool:
    """True if the top package of ``package.module:name`` can be found, in the environment or the current folder."""
    with _importable(Path.cwd(), first=False):
        try:
            return importlib.util.find_spec(spec.partition(":")[0].partition(".")[0]) is not None
        except (ImportError, ValueError):
            return False


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known names that look most like ``name``, best first, ignoring case.

    Args:
        name: What was typed.
        known: What there is.
        limit: The most names to return.
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), list(by_lower), n=limit, cutoff=0.5)]


def nearest_path(path: Path) -> str | None:
    """A hint for a file that is not there: the most similar entry of the deepest folder, or what is in its place.

    Only what may be meant is: a folder for a folder, a file of the same suffix for a file, or one of the same name but
    for the suffix.

    Args:
        path: The path that is missing.

    Returns:
        A sentence, or None if nothing there looks alike.
    """
    if path.name and path.is_dir():
        return "that is a folder: name a file"
    if path.exists() and not (path.is_file() or path.is_dir()):
        return "that is a pipe or a device: copy what comes out of it into a file"
    missing = path
    while not missing.parent.is_dir():
        if missing.parent == missing:
            return None
        missing = missing.parent
    try:
        names = [each.name for each in missing.parent.iterdir() if _may_be_meant(each, missing, whole=missing == path)]
    except OSError:
        return None
    near = nearest(missing.name, names, 1)
    return f"did you mean {missing.parent / near[0]}?" if near else None


def _may_be_meant(there: Path, missing: Path, *, whole: bool) -> bool:
    """Whether an entry is of the kind that is missed.

    Args:
        there: The entry.
        missing: What is not there.
        whole: It is what was asked for, and not a folder on the way.
    """
    if there.name.startswith(".") and not missing.name.startswith("."):
        return False
    if not whole:
        return there.is_dir()
    same = there.suffix.lower() == missing.suffix.lower()
    if there.is_dir():
        return same or not missing.suffix
    return same or there.stem.lower() == missing.stem.lower()


def find_object(spec: str, error: type[EdgespaError], noun: str) -> UserObject:
    """Import the code that ``spec`` names and look the object up in it.

    A file is executed afresh under a private module name, with its folder on ``sys.path`` only while it runs. A
    module is imported the ordinary way, with the current folder searched last.

    Args:
        spec: ``path/file.py:name`` or ``package.module:name``.
        error: The class of error to raise.
        noun: What the name stands for, for messages: "factory", "data set".

    Raises:
        EdgespaError: Of class ``error``: no such file, module or name, or the code raised on import.
    """
    file_parts = split_file_spec(spec)
    if file_parts is not None:
        path = expanded(file_parts[0])
        name, where, folder, first = file_parts[1], str(path), path.resolve().parent, True
        module = _run_file(path, error)
    elif is_module_spec(spec):
        where, _, name = spec.partition(":")
        folder, first = Path.cwd(), False
        module = _import_module(where, error)
    else:
        raise error(f"'{spec}' names no {noun}", "write path/file.py:NAME or package.module:NAME")
    if not name:
        raise error(f"{where}: no {noun} named", f"write {where}:NAME with one of: {_listing(_candidates(module))}")
    # A class body or `__getattr__` of a module may raise anything, hence the guard.
    with _reported(f"{spec} cannot be read", folder, error):
        value = getattr(module, name, _ABSENT)
    if value is _ABSENT:
        candidates = _candidates(module)
        near = nearest(name, candidates)
        ordered = near + [candidate for candidate in candidates if candidate not in near]
        raise error(f"{where} has no '{name}'", f"{noun} names there, nearest first: {_listing(ordered)}")
    return UserObject(value, spec, folder, first, error)


_ABSENT = object()


def _run_file(path: Path, error: type[EdgespaError]) -> ModuleType:
    if not path.is_file():
        raise error(f"{path}: no such file", nearest_path(path) or "check the path, relative to the current folder")
    full = path.resolve()
    # The name is private so that the file cannot shadow an installed module, and registered because dataclasses
    # and `inspect` look classes up through `sys.modules`.
    name = f"_edgespa_user_{full.stem}_{hashlib.sha256(str(full).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise error(f"{path} cannot be imported", "give a Python source file")
    module = importlib.util.module_from_spec(spec)
    previous = sys.modules.get(name)
    sys.modules[name] = module
    try:
        with _importable(full.parent, first=True), _reported(f"{path} cannot be imported", full.parent, error):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name)
        if previous is not None:
            sys.modules[name] = previous
        raise
    return module


def _import_module(name: str, error: type[EdgespaError]) -> ModuleType:
    with _importable(Path.cwd(), first=False), _reported(f"module {name} cannot be imported", Path.cwd(), error):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as missing:
            # Only if the module itself is absent; a missing dependency of it is the user's code failing.
            if missing.name is not None and (name + ".").startswith(missing.name + "."):
                raise error(
                    f"no module named '{missing.name}'",
                    "install the package into this environment, or name a file: path/file.py:NAME",
                ) from missing
            raise


@contextlib.contextmanager
def _importable(folder: Path, first: bool) -> Iterator[None]:
    entry = str(folder)
    if first:
        sys.path.insert(0, entry)
    else:
        sys.path.append(entry)
    try:
        yield
    finally:
        # By value and from the right end: the user's code may itself have changed the path.
        if entry in sys.path:
            index = sys.path.index(entry) if first else len(sys.path) - 1 - sys.path[::-1].index(entry)
            del sys.path[index]


@contextlib.contextmanager
def _reported(what: str, folder: Path, error: type[EdgespaError]) -> Iterator[None]:
    """Turn anything that the user's code raises into ``error``; a script's ``sys.exit`` too."""
    try:
        yield
    except EdgespaError:
        raise
    except (Exception, SystemExit) as failure:
        if isinstance(failure, SyntaxError):
            where = f" (line {failure.lineno})"
        else:
            frames = [f for f in traceback.extract_tb(failure.__traceback__) if _is_user_code(Path(f.filename), folder)]
            where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        hint = "correct the code there, then try again"
        if isinstance(failure, ModuleNotFoundError) and failure.name:
            hint = f"install '{failure.name}' into this environment"
        elif found := re.search(r"operator (\w+)::\w+ does not exist", str(failure)):
            hint = mismatched(found[1])
        raise error(f"{what}{where}: {type(failure).__name__}: {failure}", hint) from failure


def mismatched(package: str) -> str:
    """What to do where a library with compiled operators was built for another torch than the one that is here.

    Args:
        package: The library.
    """
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    source = " --index-url https://download.pytorch.org/whl/cpu" if torch.endswith("+cpu") else ""
    return f"install the build of {package} that belongs to torch {torch}: pip install {package}{source}"


def _is_user_code(path: Path, folder: Path) -> bool:
    # The folder may hold the environment, or this package itself.
    return path.is_relative_to(folder) and "site-packages" not in path.parts and path != Path(__file__)


def _candidates(module: ModuleType) -> list[str]:
    """Public names of a module that could be meant: callables that need no arguments and are written in it.

    A module that has none of those offers what it imported, or in the end all of its callables.
    """
    public = {name: value for name, value in vars(module).items() if not name.startswith("_") and callable(value)}
    free = [name for name, value in public.items() if _needs_no_arguments(value)]
    own = [name for name in free if getattr(public[name], "__module__", None) == module.__name__]
    return own or free or list(public)


def _needs_no_arguments(value: Any) -> bool:
    try:
        inspect.signature(value).bind()
    except (TypeError, ValueError):
        return False
    return True


def _listing(names: list[str]) -> str:
    if not names:
        return "(none)"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
