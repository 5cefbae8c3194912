"""What a recipe asks for that only its user may say: code, devices, keys, files anywhere. See SECURITY.md.

Without a word a recipe reads what it names, computes, and writes new files below its own or the current folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgespa.cli._recipes import keys_of

if TYPE_CHECKING:
    from edgespa.api.recipes import Step

SAID = {
    "trust": "runs code that a file names",
    "python": "runs that Python",
    "sign": "signs with that key",
    "key": "signs with that key",
    "unsigned": "devices run what nobody has signed",
    "memory": "what runs the files may take more memory",
    "mlflow": "it is told how the training goes, and your settings",
    "health-command": "runs that command on the devices",
    "ray": "its cluster is connected to, and runs code as you",
}
"""Options that are never taken from a recipe without a word."""
WRITTEN = ("output", "log", "plot", "save-task", "tensorboard")
"""Options that name what is written."""
REPLACED = ("log",)
"""Those of them that replace a file which is there, without a question of their own."""
DEVICES, GROUPS = "device", "group"
ON_DEVICES = {
    "ship": "it puts files on devices, and in use there",
    "rollback": "it changes what is in use on devices",
    "devices-setup": "it puts runtimes on a device, and runs them there",
    "devices-pull": "it lets a device fetch and use what a server has",
}
"""Steps that are never taken from a recipe without a word."""
INTO_BUNDLES = {
    "profile": "the profile is written into it",
    "sign": "the signature is written into it",
}
"""Steps that write into what they are given."""
MODELS = ("model", "base")
OBJECTIVE = "objective"
DATA = ("data", "eval-data", "validation-data", "calibration", "held-out", "images")
HARMLESS = (
    "input-shape", "weights", "from", "original", "task", "bundle", "sources", "mean", "std", "scale", "resize",
    "resize-to", "padding", "interpolation", "antialias", "channel-order", "limit", "eval-limit", "labels",
    "class-offset", "hold-out", "skip-bad-files",
    "adapter", "rank", "kernel", "adapter-option", "density", "budget", "threads", "variant",
    "normalisation", "round-to", "min-width", "keep", "only", "criterion", "schedule", "prune-steps",
    "prune-fraction", "recovery-epochs", "lr-restart", "group-sparsity", "epochs", "batch-size", "accumulate", "lr",
    "label-smoothing", "class-weights", "augment", "distill", "distill-weight", "distill-temperature",
    "heal", "heal-steps", "steps", "quantise", "quantise-share",
    "mixed-precision", "norms", "freeze-norms", "store", "head", "validation", "seed", "method", "alpha",
    "metric", "keep-depth", "score-images", "allocation", "reweight", "activations", "bn-reestimate", "head-width",
    "spare",
    "widen", "blocks", "narrow-heads", "format",
    "precision", "int8-tolerance", "int8-max-loss", "fp32-tolerance", "int8-calibration", "int8-rounding",
    "int8-scheme", "int8-io", "int8-slowdown",
    "calibration-images",
    "layout", "batch", "also-size", "onnx-runtime", "opset", "preprocess", "decode", "cache", "strict", "license",
    "signers", "identity", "revoked", "no-run", "timeout", "provider", "runs", "seconds", "duration", "cooldown",
    "rounds", "by-layer", "pick", "tune", "power-mode", "fixed-clocks",
    "against", "again", "no-save", "with-base", "volatile", "archive", "to", "count", "balance", "description", "name",
    "wave", "abort-above", "take-back", "watch", "health-every", "health-timeout", "max-latency", "wait-for-lock",
    "catch-up",
    "space", "set", "goal", "sampler", "trials", "bracket", "jobs",
    "wheels", "offline", "runtime", "arithmetic", "wrong", "path", "paths", "title", "examples",
    "kind", "downgrade", "every", "no-pull", "url",
)  # fmt: skip
"""Options that say what is read or computed. One that is in no list is asked about: see `questions`."""


def _writes(step: Step) -> bool:
    """Whether it writes into what it is given."""
    return not step.values.get("no-save") or step.values.get("pick") is not None


def questions(step: Step, command: click.Command, folders: tuple[Path, ...], overwrite: bool) -> Iterator[str]:
    """What a step asks for that is not done without a word, with its place and the reason.

    Args:
        step: Of the recipe; the current folder is that of its paths.
        command: That it names.
        folders: Below which it may write.
        overwrite: It may replace what is there.
    """
    if (what := ON_DEVICES.get(step.command)) is not None:
        yield f"{step.where()}: {what}"
    keys = keys_of(command)
    for key, value in step.values.items():
        name = _canonical(key, keys)
        for each in value if isinstance(value, list) else [value]:
            if (why := _question(step.command, name, each, folders, overwrite)) is not None:
                yield f"{step.where(key)} = {_shown(each)}: {why}"
    if (what := INTO_BUNDLES.get(step.command)) is not None and _writes(step):
        bundle = step.values.get("bundle")
        if isinstance(bundle, str) and (why := _outside(bundle, folders)) is not None:
            yield f"{step.where('bundle')} = {_shown(bundle)}: {what}, and it {why}"


def question_of_project(command: str, key: str, value: Any, folders: tuple[Path, ...], overwrite: bool) -> str | None:
    """Why a value of ``edgespa.toml`` is not taken without the user's word; None where it is.

    Args:
        command: That it is for, and that the user has typed.
        key: What it is for: the first name that it has.
        value: A text or a bool.
        folders: Below which the command may write.
        overwrite: It may replace what is there.
    """
    if key in (DEVICES, GROUPS) and command == "ship":
        return None if value == "local" else "is connected to, as you"
    if key == "bundle" and command in INTO_BUNDLES and (why := _outside(str(value), folders)) is not None:
        return f"{INTO_BUNDLES[command]}, and it {why}"
    return _question(command, key, value, folders, overwrite)


def _canonical(key: str, keys: Mapping[str, click.Parameter]) -> str:
    """The first name of what a key says: an argument has several."""
    return next(name for name, param in keys.items() if param is keys[key])


def _question(command: str, key: str, value: Any, folders: tuple[Path, ...], overwrite: bool) -> str | None:
    if key in HARMLESS:
        return None
    if key in SAID:
        return None if value is False else SAID[key]
    if key in (DEVICES, GROUPS):
        return None if value == "local" or command in ("export", *ON_DEVICES) else "is connected to, as you"
    if key in WRITTEN:
        there = key in REPLACED and not overwrite and Path(str(value)).exists()
        return "it would be replaced, for which one says --overwrite" if there else _outside(str(value), folders)
    from edgespa.models.trust import CODE, is_remembered, question

    if key in MODELS:
        return question(str(value))
    if key == OBJECTIVE:
        from edgespa.cli._kinds import OBJECTIVES

        return None if value in OBJECTIVES else CODE
    if key in DATA:
        from edgespa.data.load import is_code

        return CODE if is_code(str(value)) and not is_remembered(str(value)) else None
    return "it is not known to be harmless"


def _outside(path: str, folders: tuple[Path, ...]) -> str | None:
    from edgespa.system.files import expanded

    found = expanded(path).resolve()
    for folder in folders:
        if found.is_relative_to(folder):
            hidden = any(part.startswith(".") for part in found.relative_to(folder).parts)
            return "is hidden" if hidden else None
    return "is neither below the recipe's folder nor below this one"


def _shown(value: Any) -> str:
    from edgespa.system.bounds import shown

    return shown(str(value))
