"""Making a latency table: the layers that are missing, as files of their own, measured on the device."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from edgespa.config import Strict
from edgespa.device.host import Facts
from edgespa.device.inventory import read_facts, runtime_python
from edgespa.device.link.payload import Payload
from edgespa.device.link.transport import Connection
from edgespa.device.measure.answers import Ended, decode, parse_answer
from edgespa.device.measure.profile import LOCK
from edgespa.device.measure.site import KEPT_BUNDLES, LONGEST_S, STALL_S
from edgespa.device.ours import runner_command
from edgespa.device.runner.layers import INDEX
from edgespa.errors import ConfigError
from edgespa.exporting.branches import write_branches
from edgespa.graph.kinds import BY_ELEMENTS, Kind
from edgespa.graph.layers import Layers
from edgespa.latency.chains import Chain
from edgespa.latency.predict import missing
from edgespa.latency.table import (
    VARIANTS,
    LatencyTable,
    Off,
    Origin,
    Time,
    Width,
    largest_kinds,
    load_table,
    save_table,
    table_path,
)
from edgespa.selection.staircase import found_step
from edgespa.system.guarded import private_folder

log = logging.getLogger(__name__)

Progress = Callable[[float, float | None, str], None]
AT_ONCE = 128
"""Files of one process on the device: what it measured is kept when it ends."""
SECONDS = 10.0
"""For some dozens of files, see `edgespa.device.runner.layers.bench_layers`."""
_CHAINS = (8, 40)
_BLOCK, _NARROWER = 16, (4, 8, 16)
_LEAST_WIDE, _WIDE, _LEAST_US = 48, 64, 10.0
# Whatever is asked for, exporters leave these in float.
_FLOAT = ("attention", "layer_norm", "softmax", "batch_norm", "transpose", "gelu", "matmul")


@dataclass(frozen=True)
class Wanted:
    """One file.

    Attributes:
        kind: Of its layer.
        widths: Of its layer.
    """

    kind: Kind
    widths: tuple[int, ...]


class Row(Strict):
    """What the runner says of one file.

    Attributes:
        file: Its name.
        us: Microseconds of a run.
        nodes: Operators that they are of; None where the runtime does not tell.
    """

    file: str
    us: Time
    nodes: Width | None


class Clocked(Row):
    """Of a file that was measured by the clock as well.

    Attributes:
        clock_us: Microseconds of a run.
    """

    clock_us: Time


class Answer(Strict):
    """What the runner says.

    Attributes:
        layers: Of each file.
        whole: Likewise, of those that are measured by the clock as well.
        runtime: Name and version.
        python: Version.
        machine: Instruction set.
        threads: Of the runtime.
    """

    layers: tuple[Row, ...]
    whole: tuple[Clocked, ...]
    runtime: str
    python: str
    machine: str
    threads: int


def make_table(
    connection: Connection,
    layers: Layers,
    variant: str,
    threads: int = 1,
    *,
    again: bool = False,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure what a device's table lacks for a program, and keep it.

    What was measured before is taken over where it is of the same runtime, version, processor and number of threads;
    otherwise it is measured anew, and that is said. Some hundred files are measured at a time and kept at once, so an
    interrupted run goes on where it was.

    Args:
        connection: To the device.
        layers: Of the program.
        variant: One of `VARIANTS`.
        threads: Of the runtime.
        again: Measure all anew.
        progress: Told ``(done, total, text)``.

    Raises:
        ConfigError: There is no such variant; or the file of the table is damaged.
        DeviceError: The device cannot measure.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"there are no latency tables of '{variant}'", f"choose one of: {', '.join(VARIANTS)}")
    path = table_path(connection.device.name, variant, threads)
    facts = read_facts(connection)
    python = runtime_python(connection, facts)
    name, _, precision = variant.partition("-")
    site = _Site(connection, python, name, threads)
    origin = origin_now(connection, facts, site, variant, threads)
    table = None if again else load_table(path)
    if table is not None and (others := table.origin.differences(origin)):
        log.warning("the latency table of %s is measured anew: it was of another %s", origin.device, "; ".join(others))
        table = None
    table = table or LatencyTable(origin=origin, created=_now())
    tell = progress or (lambda done, total, text: None)
    wanted = plan(layers, table)
    for start in range(0, len(wanted), AT_ONCE):
        began = time.monotonic()
        part = wanted[start : start + AT_ONCE]
        table = _with_part(table, part, site, precision, lambda done, start=start: tell(  # type: ignore[misc]
            start + done, len(wanted), f"{variant}: write layers"
        ))  # fmt: skip
        table = table._with(
            created=_now(),
            seconds=table.seconds + time.monotonic() - began,
            bytes_sent=table.bytes_sent + site.take_sent(),
        )
        save_table(table, path)
    tell(len(wanted), len(wanted), "done")
    return table


def origin_now(connection: Connection, facts: Facts, site: _Site, variant: str, threads: int) -> Origin:
    """What times that are measured now belong to: the runtime is asked, not believed."""
    answer = site.measure({}, {})
    return Origin(
        device=connection.device.name,
        machine=facts.machine,
        cpu_model=facts.cpu_model,
        runtime=answer.runtime,
        variant=variant,  # type: ignore[arg-type]
        threads=threads,
    )


def plan(layers: Layers, table: LatencyTable) -> list[Wanted]:
    """What is to be measured, the probes for widths off the steps first."""
    lacking = missing(layers, table)
    if not lacking:
        return []
    known = {each.family for each in table.off}
    weights = {kind: float(max(map(_weight, points))) for kind, points in lacking.items()}
    wanted: dict[Wanted, None] = {}
    for family, kind in largest_kinds(list(lacking), weights).items():
        if family not in known:
            for widths in _probes(kind, max(lacking[kind], key=_weight)):
                wanted[Wanted(kind, widths)] = None
    for kind, points in lacking.items():
        for widths in sorted(points):
            wanted[Wanted(kind, widths)] = None
    return list(wanted)


def _weight(widths: Sequence[int]) -> int:
    return widths[0] * widths[-1]


def _probes(kind: Kind, full: tuple[int, ...]) -> list[tuple[int, ...]]:
    """A width on the steps, and some that are narrower, on each axis that is wide enough.

    Of a wide axis few blocks: one more or less has to stand out of what a clock says.
    """
    found: list[tuple[int, ...]] = []
    for axis, width in enumerate(full):
        if width >= _LEAST_WIDE:
            top = min(width // _BLOCK * _BLOCK, _WIDE)
            found += [(*full[:axis], top - less, *full[axis + 1 :]) for less in (0, 2, *_NARROWER)]
    return found


class _Site:
    """Where files are measured."""

    def __init__(self, connection: Connection, python: Sequence[str], name: str, threads: int) -> None:
        self._connection, self._python, self._name, self._threads = connection, python, name, threads
        self._sent = 0

    def take_sent(self) -> int:
        """Bytes that went over since this was asked last."""
        sent, self._sent = self._sent, 0
        return sent

    @property
    def format(self) -> str:
        return self._name

    def measure(self, files: Mapping[str, str], whole: Mapping[str, str], folder: Path | None = None) -> Answer:
        """Have files measured in one process on the device, each by name and how its operators count.

        Raises:
            DeviceError: It does not answer, or oddly.
        """
        index = {"format": self._name, "files": list(files.items()), "whole": list(whole.items())}
        with private_folder() as place:
            at = folder or place
            (at / INDEX).write_text(json.dumps(index), encoding="utf-8")
            where = self._delivered(at, [INDEX, *files, *whole])
            argv, by_hand = runner_command(
                self._python, where, ["--layers", "--threads", str(self._threads), "--seconds", f"{SECONDS:g}"]
            )
            request = {"argv": argv, "timeout_s": LONGEST_S, "stall_s": STALL_S}
            request["small"] = not self._connection.device.is_local
            if self._connection.device.is_local:
                done = self._connection.ask("execute", request, hold=True, timeout_s=LONGEST_S + 60)
            else:
                with self._connection.lock(LOCK, "another edgespa measures there"):
                    done = self._connection.ask("execute", request, hold=True, timeout_s=LONGEST_S + 60)
        ended = Ended(int(done["status"]), str(done["stdout"]), str(done["stderr"]), by_hand, done["killed"])
        answer = parse_answer(Answer, decode(ended, "layers", "layers"), "layers")
        if [row.file for row in answer.layers] != list(files) or [row.file for row in answer.whole] != list(whole):
            raise ConfigError("the runner has answered of other files than it was asked about", "try again")
        return answer

    def _delivered(self, folder: Path, names: Sequence[str]) -> str:
        if self._connection.device.is_local:
            return str(folder)
        payloads = {name: Payload.of(folder / name) for name in names}
        digest = hashlib.sha256("".join(each.sha256 for each in payloads.values()).encode()).hexdigest()[:32]
        where, sent = self._connection.deliver(f"bundles/{digest}", payloads, None)
        if sent.bytes_sent:
            self._connection.ask("sweep", {"folder": "bundles", "keep": KEPT_BUNDLES})
        self._sent += sent.bytes_sent
        return where


def _with_part(
    table: LatencyTable, wanted: Sequence[Wanted], site: _Site, precision: str, progress: Callable[[int], None]
) -> LatencyTable:
    """The table with some points more."""
    onnx = site.format == "onnx"
    around = None if not onnx else "behind" if precision == "int8" else "beside"
    names = [f"{number}.{site.format}" for number in range(len(wanted))]
    hows: dict[str, str] = {}
    with private_folder() as place:
        for low in (False, True):
            chosen = [i for i, each in enumerate(wanted) if (precision == "int8" and _is_float(each.kind)) == low]
            if not chosen:
                continue
            chains = [Chain(wanted[i].kind, wanted[i].widths, around=around).eval() for i in chosen]
            for i, chain in zip(chosen, chains, strict=True):
                hows[names[i]] = _how(wanted[i].kind, chain)
            write_branches(
                [(chain, chain.shapes) for chain in chains],
                [place / names[i] for i in chosen],
                site.format,
                "fp32" if low else precision,
                progress,
            )
        whole = {f"chain{count}.{site.format}": "all" for count in _CHAINS}
        ends = {f"floor{number}.{site.format}": "all" for number in range(2)}
        lines = [_line(count) for count in (*_CHAINS, 1, 1)]
        own_files = [place / name for name in (*whole, *ends)]
        write_branches([(line, ((1, 16),)) for line in lines], own_files, site.format, "fp32")
        first, last = ends.items()
        answer = site.measure(dict([first, *((name, hows[name]) for name in names), last]), whole, place)
    return _taken(table, wanted, answer)


def _is_float(kind: Kind) -> bool:
    return kind.operator in _FLOAT


def _how(kind: Kind, chain: Chain) -> str:
    if chain.behind is not None:
        return "behind"
    return "inside" if kind.kernel and kind.operator not in BY_ELEMENTS else "all"


def _line(count: int) -> nn.Module:
    """So many operators that compute next to nothing, one behind the other."""
    torch.manual_seed(0)
    return nn.Sequential(*(each for _ in range(count) for each in (nn.Linear(16, 16), nn.ReLU()))).eval()


def _taken(table: LatencyTable, wanted: Sequence[Wanted], answer: Answer) -> LatencyTable:
    """What the answer means: what a run and an operator cost besides, and of each file its layer's own time.

    A file with one operator that computes next to nothing shows what a file costs besides its layer when it runs in
    turn with others, all of it out of the nearest caches; a chain of such operators, what one costs inside of a
    network. The difference is taken off each operator's time.
    """
    first, *rows, last = answer.layers
    short, long = answer.whole
    inside_us = max(0.0, (long.clock_us - short.clock_us) / (_CHAINS[1] - _CHAINS[0]))
    alone_us = (first.us + last.us) / 2
    run_us = max(0.0, short.clock_us - _CHAINS[0] * inside_us)
    found = []
    for each, row in zip(wanted, rows, strict=True):
        own = row.us - (row.nodes or 1) * (alone_us - inside_us)
        found.append((each.kind, each.widths, round(max(inside_us / 2, own), 3)))
    result = table.with_points(found)._with(node_us=inside_us, run_us=run_us)
    return _with_steps(result, {(kind, widths): us for kind, widths, us in found})


def _with_steps(table: LatencyTable, found: Mapping[tuple[Kind, tuple[int, ...]], float]) -> LatencyTable:
    """The table with what the probes among the points say: the block, and what widths off it cost."""
    off: list[Off] = list(table.off)
    gains: dict[int, list[tuple[float, int]]] = {}
    for (kind, top), us in found.items():
        for axis, width in enumerate(top):
            near = {less: found.get((kind, (*top[:axis], width - less, *top[axis + 1 :]))) for less in (2, *_NARROWER)}
            if any(value is None for value in near.values()) or us < _LEAST_US or width % _BLOCK:
                continue
            times = {0: us, **{less: float(value or 0.0) for less, value in near.items()}}
            gains.setdefault(axis, []).append((us, found_step(times)))
            for less, divisor in ((8, 8), (4, 4), (2, 1)):
                factor = min(100.0, max(0.06, times[less] / us))
                off = [each for each in off if (each.family, each.axis, each.divisor) != (kind.family, axis, divisor)]
                off.append(Off(family=kind.family, axis=axis, divisor=divisor, factor=factor))  # type: ignore[arg-type]
    if not gains:
        return table
    votes = list(itertools.chain.from_iterable(gains.values()))
    step = max((16, 8, 4), key=lambda own: sum(us for us, vote in votes if vote == own))
    return table._with(off=tuple(off), step=step)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
