"""``edgespa devices``: profiles of devices, and what is really on them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgespa.cli._devices_pull import agent, pull
from edgespa.cli._help import Explained, ExplainedGroup
from edgespa.cli._options import json_option, model_options, trust_option
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._sections import DEVICES_EXAMPLES, DEVICES_LATENCIES, DEVICES_LATENCIES_EXAMPLES, DEVICES_SETUP
from edgespa.cli._terminal import WIDTH, aside, columns, echo, results, secho

if TYPE_CHECKING:
    from edgespa.device.board import Device, Found
    from edgespa.device.inventory import Inventory
    from edgespa.models.inputs import InputSizes


_KEY = 16


@click.group(name="devices", cls=ExplainedGroup, examples=DEVICES_EXAMPLES)
def command() -> None:
    """List, show, check, set up or time devices: boards that bundles are profiled on and shipped to.

    NAME is a profile that comes with edgespa, one of your own in ~/.config/edgespa/devices/NAME.toml, or the path of
    a .toml file. It is reached by the system's ssh, under its name in ~/.ssh/config or as [connection] says.
    """


@command.command(name="list")
@json_option()
def list_(as_json: bool) -> None:
    """List the profiles: those that come with edgespa, and your own."""
    from edgespa.cli._output import emit_json, table
    from edgespa.device import list_devices
    from edgespa.device.board import user_folder

    found = list_devices()
    if as_json:
        emit_json([{"name": each.name, "path": each.path, "problem": each.problem, **_plain(each)} for each in found])
        return
    rows = [(each.name, *_row(each.device), _where(each)) for each in found if each.device is not None]
    table(("name", "board", "cores", "MHz", "GB/s", "profile"), rows)
    for each in found:
        if each.problem:
            secho(f"UNREADABLE: {each.problem}", err=True, fg="yellow", bold=True)
    aside(f"your own: {user_folder()}/NAME.toml")


@command.command()
@click.argument("name")
@click.option("--toml", "as_toml", is_flag=True, help="Print the profile's file, to begin your own with.")
@json_option()
def show(name: str, as_toml: bool, as_json: bool) -> None:
    """Print a profile; nothing is connected."""
    from edgespa.cli._output import emit_json
    from edgespa.device import load_device
    from edgespa.device.board import profile_text

    device = load_device(name)
    if as_json:
        emit_json(device)
    elif as_toml:
        echo(profile_text(name), nl=False)
    else:
        _show(device)


@command.command()
@click.argument("name")
@json_option()
def check(name: str, as_json: bool) -> None:
    """Connect, and say what is there: system, Python, space, sensors, runtimes and what really computes in them.

    Every provider that a runtime lists is tried with a real inference. Exit status 1 if nothing can run a model.
    """
    from edgespa.cli._output import emit_json
    from edgespa.device import connect, load_device
    from edgespa.device.inventory import take_inventory
    from edgespa.errors import DeviceError

    with connect(load_device(name)) as connection:
        found = take_inventory(connection)
    if as_json:
        emit_json(found)
    else:
        _show_inventory(found)
    if not any(each.works for each in found.providers):
        raise DeviceError(f"{name}: no runtime works there", f"edgespa devices setup {shlex.quote(name)}")


@command.command(cls=Repeatable, sections=DEVICES_SETUP)
@click.argument("name")
@click.option(
    "--wheels",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Take packages from here first: NVIDIA's wheels for a Jetson, say.",
)
@click.option("--offline", is_flag=True, help="Take packages from --wheels only, nothing from the package index.")
@click.option("--again", is_flag=True, help="Make the environment anew, even if it is there.")
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="REQUIREMENT",
    help="Another version than the tested one: onnxruntime==1.20.1; without a version the newest. May be repeated.",
)
@recipe_options()
@json_option()
def setup(name: str, wheels: Path | None, offline: bool, again: bool, runtimes: tuple[str, ...], as_json: bool) -> None:
    """Put the runtimes there: wheels that fit, fetched here and copied, in an environment of their own.

    The versions are those that bundles are tested with, as far as there are wheels for the device's Python. The device
    needs no internet. A second run does nothing; one that was interrupted is done again. A runtime that does not work
    there does not stop the other; the exit status is 1 then.
    """
    from edgespa.api.shell import checked
    from edgespa.cli._output import emit_json, progress
    from edgespa.device import connect, load_device
    from edgespa.device.provision.setup import set_up
    from edgespa.errors import DeviceError

    device = load_device(name)
    checked()
    with connect(device) as connection, progress(f"{name}: looking") as report:
        done = set_up(connection, wheels=wheels, offline=offline, again=again, runtimes=runtimes, progress=report)
    if as_json:
        emit_json(done)
    else:
        echo(done.summary())
        _show_providers(done.inventory)
    for each in done.broken:
        secho(f"NOT SET UP: {name}: {each.runtime}: {each.error}", err=True, fg="yellow", bold=True)
    if done.broken:
        names = " and ".join(each.runtime for each in done.broken)
        raise DeviceError(f"{name}: {names} cannot be used there", done.broken[0].hint)


@command.command(cls=Explained, sections=DEVICES_LATENCIES, examples=DEVICES_LATENCIES_EXAMPLES)
@click.argument("device", metavar="NAME")
@model_options("[MODEL|TASK]", required=False)
@click.option("--base", metavar="MODEL", help="For a task file: its base, if it is not where it was.")
@trust_option()
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice(["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]),
    default=("onnx-fp32",),
    show_default=True,
    help="Of what files; a table for each. May be repeated.",
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the runtime.")
@click.option("--again", is_flag=True, help="Measure all anew.")
@click.option("--remove", is_flag=True, help="Remove the tables of these variants and so many threads.")
@json_option()
def latencies(
    device: str,
    model: str | None,
    input_shape: InputSizes | None,
    weights: str | None,
    base: str | None,
    trust: bool,
    variants: tuple[str, ...],
    threads: int,
    again: bool,
    remove: bool,
    as_json: bool,
) -> None:
    """What layers take on a device: which are slow, and how fast any pruned network will be.

    Without a MODEL the tables are shown that there are. With one, what they lack for it is measured on the device:
    small files of one layer each, over a grid of widths, some hundred at a time in one process; then the model itself,
    once, to correct the sum. Then each layer is shown with what it takes; of a TASK with its kept units. Other networks
    and tasks use what was measured again, and so does `prune`, which says what its result will take. What was measured
    is kept while it is made: after an interruption the same command goes on.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json, show

    found = es.latencies(
        device,
        model=model,
        variants=variants,
        threads=threads,
        input_shape=input_shape,
        weights=weights,
        base=base,
        trust=trust,
        again=again,
        remove=remove,
    )
    if as_json:
        emit_json(found)
    else:
        show(found)


command.add_command(pull)
command.add_command(agent)


def _plain(found: Found) -> dict[str, object]:
    return {} if found.device is None else {"device": found.device.model_dump()}


def _row(device: Device) -> tuple[object, ...]:
    return device.title, device.cores, device.clock_mhz, device.bandwidth_gb_s


def _where(found: Found) -> str:
    return "your own" if found.path else "edgespa"


def _show(device: Device) -> None:
    memory = ", ".join(f"{size:,}" for size in device.memory_mib)
    reach = device.connection
    facts = [
        ("board", device.title),
        ("processor", device.cpu),
        ("instructions", " ".join([device.machine or "", *device.isa]).strip()),
        ("cores", device.cores and f"{device.cores} at {device.clock_mhz:,} MHz"),
        ("memory", memory and f"{memory} MiB, {device.bandwidth_gb_s:g} GB/s"),
        ("GPU", device.gpu),
        ("channels", f"multiples of {device.round_to}"),
        ("reached by", "this process" if device.is_local else f"ssh {device.host}"),
        ("keeps things in", reach.folder),
        ("Python", None if device.is_local else reach.python),
        ("source", device.source),
    ]
    for runtime in device.runtimes:
        facts.append(("runtime", f"{runtime.name} >= {runtime.oldest}: {', '.join(runtime.providers)}"))
    _lines(facts)
    if device.references:
        _show_references(device)


def _lines(rows: Sequence[tuple[str, object]]) -> None:
    """Names and values, one below the other, wrapped to the width; an empty value is left out."""
    import textwrap

    width = columns(results()) or WIDTH
    for key, value in rows:
        if value:
            indent = " " * _KEY
            text = textwrap.fill(str(value), width, initial_indent=indent, subsequent_indent=indent)
            echo(f"{key:<{_KEY}}{text[_KEY:]}")


def _show_references(device: Device) -> None:
    from edgespa.cli._output import table

    echo()
    rows = [(each.network, each.precision, _threads(each.threads), each.latency_ms) for each in device.references]
    table(("network", "precision", "on", "ms"), rows, title=f"Published latencies ({device.references_source})")


def _threads(count: int | None) -> str:
    return "GPU" if count is None else f"{count} thread{'s' if count > 1 else ''}"


def _show_inventory(found: Inventory) -> None:
    facts = found.facts
    gib = 1 << 30
    rows = [
        ("machine", f"{facts.cpu_model or facts.machine}, {facts.logical_cores} cores"),
        ("system", f"{facts.distribution or facts.system}, {facts.machine}, {facts.bits} bits"),
        ("board software", facts.board_software),
        ("Python", f"{facts.python} ({facts.python_implementation}), glibc {facts.glibc or 'absent'}"),
        ("memory", facts.memory_kib and f"{facts.memory_kib / 1024:,.0f} MiB, {_mib(facts.swap_kib)} MiB swap"),
        ("free space", f"{facts.free_bytes / gib:.1f} GiB in {facts.folder}"),
        (
            "environment",
            found.environment or ("this Python" if found.device == "local" else "not set up: the Python above is used"),
        ),
        ("sensors", ", ".join(found.sensors) or "none"),
    ]
    _lines(rows)
    _lines([("problem", problem) for problem in found.problems])
    _show_providers(found)


def _mib(kib: int | None) -> str:
    return "?" if kib is None else f"{kib / 1024:,.0f}"


def _show_providers(found: Inventory) -> None:
    from edgespa.cli._output import table

    rows = [(f"{each.runtime} {each.version}", each.provider, each.works, each.error or "") for each in found.providers]
    if rows:
        echo()
        table(("runtime", "provider", "works", "why not"), rows, title="Tried with a real inference")
