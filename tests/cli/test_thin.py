"""The command line is a thin shell: each command is its public call, with the same words and the same defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import edgespa as es
from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.heal import HealConfig
from edgespa.cli import main
from edgespa.cli._shell import COMMANDS
from edgespa.config import PixelSettings, Strict
from edgespa.exporting.config import ExportConfig
from edgespa.pruning import PruneConfig
from edgespa.pruning.depth import DepthConfig

LINES: Mapping[str, list[str]] = {
    "compress": ["compress", "net.py:build", "--images", "d.zip", "--budget", "speedup=2", "--output", "o"],
    "search": ["search", "net.py:build", "--data", "d.zip", "--validation-data", "v.zip", "--output", "o"],
    "sweep": ["sweep", "tasks.toml", "--output", "o"],
    "inspect": ["inspect", "net.py:build"],
    "adapt": ["adapt", "net.py:build", "--data", "d.zip", "--output", "o.spa"],
    "prune": ["prune", "net.py:build", "--output", "o.spa", "--density", "0.5"],
    "heal": ["heal", "t.spa", "--calibration", "d.zip", "--output", "o.spa"],
    "export": ["export", "net.py:build", "--output", "o"],
    "check_data": ["data", "d.zip"],
    "evaluate": ["evaluate", "net.py:build", "--eval-data", "d.zip"],
    "verify": ["verify", "b"],
    "profile": ["profile", "b"],
    "ship": ["ship", "b", "--device", "pi"],
    "rollback": ["rollback", "fruit", "--device", "pi"],
    "status": ["status"],
    "report": ["report", "b"],
    "latencies": ["devices", "latencies", "pi"],
    "publish": ["ship", "b", "--to", "depot", "--unsigned"],
    "push": ["push", "t.spa", "oci://localhost:5000/t"],
    "pull": ["pull", "oci://localhost:5000/t", "--output", "t"],
    "remove": ["ship", "--remove", "fruit", "--device", "local", "--yes"],
    "catch_up": ["ship", "--catch-up"],
}
WITHOUT = {"tasks", "calibration", "sign", "pack", "unpack", "devices", "card", "run", "demo", "init", "completion"}
"""Commands on files and this machine, which have no public call."""
CONFIGS: Mapping[str, tuple[type[Strict], ...]] = {
    "adapt": (AdaptConfig, PixelSettings),
    "compress": (PixelSettings,),
    "search": (AdaptConfig, PixelSettings),
    "prune": (PruneConfig, DepthConfig, PixelSettings),
    "heal": (HealConfig, PixelSettings),
    "export": (ExportConfig, PixelSettings),
    "evaluate": (PixelSettings,),
}
OF_THE_TERMINAL = {"json", "save-recipe", "dry-run", "all", "svg", "html", "per-layer", "yes"}
"""How the command is called, and how its result is shown: ``svg`` is `Inspection.to_svg`, ``html`` `to_html`."""
OF_ANOTHER_CALL = {
    ("inspect", "overwrite"),
    *(("ship", each) for each in ("remove", "to", "kind", "downgrade", "unsigned", "catch-up")),
    *(("publish", each) for each in ("remove", "device", "volatile", "threads", "sign", "unsigned", "catch-up")),
    *(("publish", each) for each in ("wave", "abort-above", "take-back", "watch", "health-command", "health-every")),
    *(("publish", each) for each in ("health-timeout", "max-latency", "wait-for-lock")),
    ("adapt", "resume"),
    ("prune", "resume"),
    ("heal", "resume"),
    ("compress", "budget"),
    ("search", "budget"),
    ("search", "set"),
    ("search", "trust"),
}
"""Of the drawing; `edgespa.remove`, `edgespa.publish` and `edgespa.catch_up`, which have lines of their own, with what
they do not take; what reads a state: `test_resuming`; keywords of their own."""
NAMES = {
    "from": "start",
    "log": "log_file",
    "sign": "sign_key",
    "format": "formats",
    "precision": "precisions",
    "provider": "providers",
    "python": "pythons",
    "no-run": "run",
    "no-save": "save",
    "timeout": "timeout_s",
    "memory": "memory_mib",
    "also-size": "also_sizes",
    "adapter-option": "adapter_settings",
    "watch": "watch_s",
    "health-every": "health_every_s",
    "health-timeout": "health_timeout_s",
    "max-latency": "max_latency_ms",
    "wait-for-lock": "wait_for_lock_s",
}
"""Options that the call names otherwise: it has a list, a unit, or no dash."""
VALUES = {
    "objective": "segmentation",
    "input-shape": "1,3,8,8",
    "mean": "0.5",
    "std": "0.5",
    "budget": "macs",
    "format": "onnx",
    "also-size": "16x16",
    "resize-to": "8",
    "padding": "0",
    "adapter": "lora",
    "criterion": "l2",
    "adapter-option": "alpha=16",
    "augment": "flip",
    "keep-depth": "2",
    "fp32-tolerance": "0.0005",
    "mixed-precision": "bf16",
    "abort-above": "5%",
    "watch": "10m",
    "health-every": "20s",
    "health-timeout": "1h",
    "wait-for-lock": "5m",
    "space": "rank=4,8",
    "goal": "bytes",
}
SIGNERS = ["--signers", "signers"]
NORMAL = ["--mean", "0", "--std", "1"]
TOGETHER = {"mean": NORMAL, "std": NORMAL, "identity": SIGNERS, "revoked": SIGNERS}
SLS = ("data", "alpha", "metric", "keep-depth", "score-images", "plot", "base", "trust")
_OF_LATENCY = ("device", "threads", "variant", "widen")
SIGNATURES = {name: inspect.signature(getattr(es, name)) for name in LINES}


class _Called(es.EdgespaError):
    """The call was made."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, inspect.BoundArguments]]:
    """What is called, with what, and nothing is done."""
    found: list[tuple[str, inspect.BoundArguments]] = []

    def stand_in(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            found.append((name, SIGNATURES[name].bind(*args, **kwargs)))
            raise _Called("called")

        return call

    monkeypatch.setattr("edgespa.cli._help.refuse_unread", lambda ctx: None)  # each option by itself
    for name in LINES:
        monkeypatch.setattr(es, name, stand_in(name))
    return found


def call_of(line: list[str], calls: list[tuple[str, inspect.BoundArguments]], name: str) -> dict[str, Any]:
    """The keywords that a line leads to; settings are among them."""
    calls.clear()
    result = CliRunner().invoke(main, line)
    assert [each for each, _ in calls] == [name], (line, result.output)
    arguments = dict(calls[0][1].arguments)
    settings = arguments.pop("settings", {})
    return {**arguments, **settings}


def options(name: str) -> Iterator[click.Option]:
    command = main.get_command(click.Context(main), LINES[name][0])
    if isinstance(command, click.Group):
        command = command.get_command(click.Context(command), LINES[name][1])
    assert command is not None
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            yield param


def key(option: click.Option) -> str:
    return max(option.opts, key=len).removeprefix("--")


def keyword_of(name: str, option: str) -> str:
    """What the call names an option."""
    keyword = NAMES.get(option, option.replace("-", "_"))
    return f"{keyword}s" if f"{keyword}s" in SIGNATURES[name].parameters else keyword


def other_value(option: click.Option) -> list[str]:
    """Words that say something else than the default."""
    name, kind = key(option), option.type
    if option.is_flag:
        return [option.secondary_opts[0] if option.default is True else option.opts[-1]]
    if name in VALUES:
        return [f"--{name}", VALUES[name]]
    if isinstance(kind, click.Choice):
        shown = _plain(option.to_info_dict()["default"])
        return [f"--{name}", next(each for each in kind.choices if each not in (shown, *(shown or ())))]
    if isinstance(kind, click.FloatRange | click.types.FloatParamType):
        return [f"--{name}", "0.25"]
    if isinstance(kind, click.IntRange | click.types.IntParamType):
        return [f"--{name}", "13"]
    return [f"--{name}", "other"]


CASES = [(name, key(option)) for name in LINES if name not in ("remove", "catch_up") for option in options(name)]


def test_every_command_is_a_public_call_or_has_none() -> None:
    assert {line[0] for line in LINES.values()} | WITHOUT == set(COMMANDS)
    functions = {name for name in es.__all__ if inspect.isfunction(getattr(es, name))}
    assert functions == {*LINES, "open_task", "open_bundle"}


@pytest.mark.parametrize("name", LINES)
def test_a_command_makes_its_call(name: str, calls: Any) -> None:
    assert call_of(LINES[name], calls, name)


@pytest.mark.parametrize(("name", "option"), CASES)
def test_an_option_is_a_keyword_or_of_the_terminal(
    name: str, option: str, calls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if option in OF_THE_TERMINAL or (name, option) in OF_ANOTHER_CALL:
        return
    found = next(each for each in options(name) if key(each) == option)
    line = _line(name, option)
    before, after = (call_of([*line, *words], calls, name) for words in ([], other_value(found)))
    keyword = keyword_of(name, option)
    assert keyword in after
    changed = {each for each in after if after[each] != before.get(each)}
    assert changed == {keyword}
    fields = {field for config in CONFIGS.get(name, ()) for field in config.model_fields}
    assert keyword in {*SIGNATURES[name].parameters, *fields}


def _line(name: str, option: str) -> list[str]:
    """One of the command in which the option may be."""
    if name == "prune" and option in (*SLS, *_OF_LATENCY):  # no other method looks at them, no other budget
        more = ["--method", "sls"] if option in SLS else ["--budget", "latency_ms=3"]
        return ["prune", "net.py:build", "--output", "o.spa", *more]
    if name == "adapt" and option in _OF_LATENCY:
        return [*LINES[name], "--budget", "latency_ms=3"]
    return [*LINES[name], *TOGETHER.get(option, [])]


def test_a_latency_is_a_keyword_of_its_own(calls: Any) -> None:
    line = LINES["compress"]
    for words, keyword, value in (("latency_ms=7.5", "latency_ms", 7.5), ("speedup=1.5x", "speedup", 1.5)):
        said = call_of([words if each == "speedup=2" else each for each in line], calls, "compress")
        assert {name: said[name] for name in ("latency_ms", "speedup") if name in said} == {keyword: value}
    assert call_of([*LINES["adapt"], "--budget", "latency_ms=3"], calls, "adapt")["latency_ms"] == 3
    said = call_of(_line("prune", "device"), calls, "prune")
    assert (said["latency_ms"], "budget" in said, "density" in said) == (3, False, False)


@pytest.mark.parametrize(("name", "option"), CASES)
def test_defaults_are_those_of_the_call(name: str, option: str) -> None:
    """What is not said is not passed on, so the default in the help has to be the library's."""
    found = next(each for each in options(name) if key(each) == option)
    keyword = keyword_of(name, option)
    known = SIGNATURES[name].parameters
    if keyword in known:
        wanted: Any = known[keyword].default
    else:
        fields = [config.model_fields[keyword] for config in CONFIGS.get(name, ()) if keyword in config.model_fields]
        if not fields:
            return
        wanted = fields[0].get_default(call_default_factory=True)
    if found.required or wanted is inspect.Parameter.empty:
        return
    shown = found.to_info_dict()["default"]
    if option.startswith("no-"):
        shown = not shown
    plain = _plain(shown)
    assert plain == _plain(wanted) or plain is None, (plain, wanted)


def _plain(value: Any) -> Any:
    """Nothing, however it is said; one of a list, and a list of one."""
    if value in ((), [], "", {}) or type(value).__name__ == "Sentinel":
        return None
    if isinstance(value, list | tuple):
        return tuple(value) if len(value) > 1 else value[0]
    return value
