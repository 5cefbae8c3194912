"""What may stand where an option or argument is typed, for completion: names and files, looked at and never opened.

No torch, no library of models, no code of anybody: names of files, the text of Python files (parsed, not run) and of
one manifest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, split_arg_string
from click.types import StringParamType

PREFIXES = ("torchvision:", "timm:", "hf:")
_MOST_BYTES = 1 << 20
_MOST_ENTRIES = 5000
_VARIANTS = tuple(
    f"{kind}-{precision}" for kind in ("onnx", "tflite", "ncnn", "executorch") for precision in ("fp32", "fp16", "int8")
)


class Completed(StringParamType):
    """A text that a shell can complete.

    Args:
        what: Says what it may be, of the context and what is typed of it.
    """

    def __init__(self, what: Callable[[click.Context, str], Iterator[CompletionItem[str]]]) -> None:
        self.what = what

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """What begins with what is typed; nothing where that cannot be found out.

        Args:
            ctx: Of the command, with what is typed before.
            param: Not used.
            incomplete: What is typed of it.
        """
        try:
            return list(self.what(ctx, incomplete))
        except Exception:  # a completion that fails says nothing in the middle of a line
            return []


def words(known: tuple[str, ...], incomplete: str) -> list[CompletionItem[str]]:
    """Those that begin with what is typed.

    Args:
        known: All.
        incomplete: What is typed.
    """
    return [CompletionItem(word) for word in known if word.startswith(incomplete)]


def joined(known: tuple[str, ...], incomplete: str) -> list[CompletionItem[str]]:
    """The same of the last of several words with commas.

    Args:
        known: All.
        incomplete: What is typed: ``flip,cr``.
    """
    before, comma, last = incomplete.rpartition(",")
    return [CompletionItem(f"{before}{comma}{word}") for word in known if word.startswith(last)]


def _stems(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    names = sorted(os.listdir(folder))[:_MOST_ENTRIES]
    return [name.removesuffix(".toml") for name in names if name.endswith(".toml")]


def _package() -> Path:
    return Path(__file__).resolve().parents[1]


def _devices(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem[str]]:
    from edgespa.system.files import expanded

    base = os.environ.get("XDG_CONFIG_HOME")
    own = (Path(base) if base else expanded("~/.config")) / "edgespa" / "devices"
    yield from words(tuple(dict.fromkeys([*_stems(_package() / "devices"), *_stems(own)])), incomplete)
    if "/" in incomplete:
        yield CompletionItem(incomplete, type="file")


def _calibration(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem[str]]:
    found = words(tuple(_stems(_package() / "calibration")), incomplete)
    yield from found
    yield from _files((), incomplete, found=bool(found))


def _data(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem[str]]:
    found = words(("digits:train", "digits:test"), incomplete)
    yield from found
    yield from _files((), incomplete, found=bool(found))


def _model(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem[str]]:
    file, colon, _ = incomplete.partition(":")
    if colon and file.endswith(".py"):
        from edgespa.models.factories import factories_in

        yield from words(tuple(f"{file}:{each}" for each in factories_in(Path(file))), incomplete)
        return
    found = words(PREFIXES, incomplete)
    yield from found
    yield from _files((".py", ".pt2", ".onnx", ".spa"), incomplete, found=bool(found))


def _files(endings: tuple[str, ...], incomplete: str, *, found: bool) -> Iterator[CompletionItem[str]]:
    """Entries of the folder that is typed; the shell's own completion where there is nothing else to offer.

    Args:
        endings: Of files that fit; any for none.
        incomplete: What is typed.
        found: Something else is offered, beside which a shell takes no word for its own.
    """
    if not found and not endings:
        yield CompletionItem(incomplete, type="file")
        return
    from edgespa.system.files import expanded

    head, _, tail = incomplete.rpartition("/")
    folder = expanded(f"{head}/" if head or incomplete.startswith("/") else ".")
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        listed = sorted((each.name, each.is_dir()) for each, _ in zip(entries, range(_MOST_ENTRIES), strict=False))
    for name, is_folder in listed:
        if not name.startswith(tail) or (name.startswith(".") and not tail.startswith(".")):
            continue
        whole = f"{head}/{name}" if "/" in incomplete else name
        if is_folder:
            yield CompletionItem(f"{whole}/")
        elif not endings or name.endswith(endings):
            yield CompletionItem(f"{whole}:" if name.endswith(".py") else whole)


def _variants(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem[str]]:
    """Those of the bundle that is typed, by its manifest, read as data; else all that there may be."""
    from edgespa.system.files import expanded

    known = _VARIANTS
    typed = split_arg_string(os.environ.get("COMP_WORDS", ""))[
        2:
    ]  # click gives an argument up before an option's value
    file = next((file for word in typed if (file := expanded(word) / "manifest.json").is_file()), None)
    if file is not None and file.stat().st_size <= _MOST_BYTES:
        try:
            names = tuple(str(each["name"]) for each in json.loads(file.read_bytes())["variants"])
        except (ValueError, TypeError, LookupError, RecursionError):  # somebody else's
            names = ()
        known = tuple(name for name in names if name.replace("-", "").isalnum()) or known
    yield from words(known, incomplete)


DEVICE = Completed(_devices)
CALIBRATION = Completed(_calibration)
DATA = Completed(_data)
MODEL = Completed(_model)
VARIANT = Completed(_variants)
SPEC = Completed(lambda ctx, incomplete: iter(words(tuple(_stems(_package() / "calibration")), incomplete)))


class Bash(BashComplete):
    """Completion in bash, which takes ``:`` and ``=`` for the ends of words where edgespa does not."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion type value cut
    COMPREPLY=()
    response=$(env COMP_WORDS="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "$1" 2>/dev/null)
    # What bash takes for a word begins behind the last of its breaks, and so does what is put in its place.
    cut=${COMP_LINE:0:COMP_POINT}
    cut=${cut##*[[:space:]]}
    if [[ $cut == *[:=]* && $COMP_WORDBREAKS == *:* ]]; then
        cut=${cut%%"${cut##*[:=]}"}
    else
        cut=
    fi
    for completion in $response; do
        type=${completion%%%%,*} value=${completion#*,}
        case $type in
            dir) compopt -o dirnames 2>/dev/null ;;
            file) compopt -o default 2>/dev/null ;;
            plain) COMPREPLY+=("${value#"$cut"}") ;;
        esac
    done
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[:=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def source(self) -> str:
        """The script; bash is not started to ask for its version."""
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and what is typed of the last one."""
        line = os.environ["COMP_WORDS"]
        typed = split_arg_string(line)
        if line[-1:].isspace() or not typed:
            return typed[1:], ""
        return typed[1:-1], typed[-1]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """A line of the answer; what bash would read as more than a word gets its backslashes."""
        value = str(item.value)
        if item.type == "plain":
            value = "".join(f"\\{each}" if each in " \t'\"\\$`&;|<>(){}[]*?!#" else each for each in value)
        return f"{item.type},{value}"


_OF: Mapping[str, Completed] = MappingProxyType(
    {
        "device": DEVICE,
        "devices": DEVICE,
        "calibration": CALIBRATION,
        "held_out": DATA,
        "data": DATA,
        "eval_data": DATA,
        "validation_data": DATA,
        "photos": DATA,
        "model": MODEL,
        "base": MODEL,
        "variants": VARIANT,
    }
)
"""Parameters that are texts to click."""


def fit(command: click.Command) -> None:
    """Let the texts that a command takes be completed.

    Args:
        command: With those below it.
    """
    for param in command.params:
        if type(param.type) is StringParamType and (found := _OF.get(str(param.name))) is not None:
            param.type = found
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        fit(inner)
        for param in inner.params:
            if param.name == "name" and isinstance(param, click.Argument):
                param.type = DEVICE if command.name == "devices" else SPEC
