"""How profiles look on the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgespa.cli._terminal import aside, echo, secho

if TYPE_CHECKING:
    from edgespa.api.results import Profile as Measured
    from edgespa.device.fleet import Outcome
    from edgespa.device.host import Conditions
    from edgespa.device.measure.results import Profile, VariantProfile

_FIGURES = ("min_ms", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
CPU, FLOAT = "CPU", "fp32"
BESIDE = ("openvino",)
"""Runtimes beside the usual one of a format, which no published latency is of."""
_BUSY = 0.5
_SPREAD = 0.1
_LAYERS = 20


def show(profile: Profile, *, titled: bool) -> None:
    """Print the tables of one profile.

    Args:
        profile: What was measured.
        titled: Say on which device: there are several.
    """
    from edgespa.cli._output import table

    where = f" on {profile.device}" if titled or profile.device != "local" else ""
    where += " (EMULATED)" if profile.emulated else ""
    for bundle in dict.fromkeys(result.bundle for result in profile.results):
        results = [each for each in profile.results if each.bundle == bundle]
        keys, names = _names(results)
        times = [tuple(number(getattr(each, figure)) for figure in _FIGURES) for each in results]
        headings = [figure.removesuffix("_ms") for figure in _FIGURES]
        table(
            (*keys, *headings),
            [(*name, *row) for name, row in zip(names, times, strict=True)],
            title=f"{bundle}: ms of one inference, batch 1{where}",
            right=headings,
        )
        echo()
        _show_costs(bundle, results, keys, names)
        _show_state(bundle, results, keys, names, always=profile.device != "local")
    if profile.ratios:
        on = [" ".join(filter(None, (each.runtime, each.provider, each.arithmetic))) for each in profile.ratios]
        named = any(on)
        table(
            ("variant", "threads", *(["on"] if named else []), "ratio", "lowest round", "highest round"),
            [
                (each.variant, each.threads, *([what] if named else []), each.ratio, each.low, each.high)
                for each, what in zip(profile.ratios, on, strict=True)
            ],
            title=f"p50 of {profile.bundle} / p50 of {profile.against}",
        )
        echo()
    _show_estimates(profile)
    if profile.proofs:
        fastest = profile.fastest
        what = (
            "none"
            if fastest is None
            else (f"{fastest.variant} in {fastest.runtime}, {number(fastest.p50_ms)} ms, {fastest.arithmetic}")
        )
        echo(f"fastest that is right: {what}")
    rounds = "1 round" if profile.rounds == 1 else f"medians of {profile.rounds} rounds"
    cores = profile.host.affinity or profile.host.logical_cores
    sent = f"; {profile.bytes_sent:,} bytes sent" if profile.device != "local" else ""
    echo(f"{profile.host.cpu_model or profile.host.machine}, {cores} cores; {rounds}{sent}")


def show_layers(profile: Profile, bundle: Path) -> None:
    """Print what each operator of the measured files takes, the slowest first, beside the device's latency table.

    Args:
        profile: What was measured.
        bundle: Its bundle.
    """
    from edgespa.cli._output import table
    from edgespa.latency.by_layer import by_layer
    from edgespa.latency.table import VARIANTS, load_table, table_path

    plain = bundle / "model.onnx" if (bundle / "model.onnx").is_file() else None
    for result in profile.results:
        operators = result.rounds[0].operators
        if result.bundle != profile.bundle:
            continue
        if operators is None:
            echo(
                f"{result.variant}: its runtime does not tell what operators take: see what the table foretells, with "
                f"this --variant: edgespa devices latencies {profile.device} MODEL",
                err=True,
            )
            continue
        known = (
            load_table(table_path(profile.device, result.variant, result.threads))
            if result.variant in VARIANTS
            else None
        )
        if known is not None and known.origin.runtime != result.rounds[0].runtime:
            aside(f"note: the latency table is of {known.origin.runtime}, this is {result.rounds[0].runtime}")
            known = None
        rows = by_layer(operators, bundle / result.rounds[0].file, known, plain)
        total = sum(row.measured_ms for row in rows) or 1.0
        slow = sorted(rows, key=lambda row: -row.measured_ms)
        shown = [
            (_cut(row.layer, 28), _cut(row.op, 12), "x".join(map(str, row.widths)),
             number(row.measured_ms), number(row.table_ms),
             number(row.gmacs_per_s), f"{row.measured_ms / total:.1%}")
            for row in slow[:_LAYERS]
        ]  # fmt: skip
        if rest := slow[_LAYERS:]:
            sums = sum(row.measured_ms for row in rest)
            shown.append((f"{len(rest)} others", "", "", number(sums), "", "", f"{sums / total:.1%}"))
        head = ("layer", "operator", "widths", "ms", "table", "GMAC/s", "share")
        title = f"{way_of(result)}: the slowest layers"
        table(head, shown, title=title, right=head[2:])
        macs = sum(row.macs for row in rows)
        echo(f"{macs / 1e6:.1f} million multiply-accumulates, {macs / total / 1e6:.1f} GMAC/s altogether")
        for what in dict.fromkeys(row.remark for row in slow if row.remark):
            own = [row for row in rows if row.remark == what]
            time = sum(row.measured_ms for row in own)
            names = ", ".join(_cut(row.layer, 28) for row in own[:3])
            names += f" and {len(own) - 3} more" if len(own) > 3 else ""
            echo(f"{time / total:.1%} in {names}: {what}")
        echo()


def _cut(text: str, most: int) -> str:
    """A long name by its end, which is where names differ."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def show_fleet(outcomes: Sequence[Outcome[Measured]]) -> None:
    """Print one table over several devices: p50 by variant, or why there is none."""
    from edgespa.cli._output import table

    # Of two bundles that are compared, the first.
    own = {
        outcome.device.name: {_key(each): each.p50_ms for each in found.results if each.bundle == found.bundle}
        for outcome in outcomes
        if outcome.result is not None
        for found in [outcome.result.measured]
    }
    keys = dict.fromkeys(key for figures in own.values() for key in figures)
    by_provider = len({provider for _, _, provider in keys}) > 1
    rows = [
        (
            *(key if by_provider else key[:2]),
            *("failed" if outcome.error else number(own[outcome.device.name].get(key)) for outcome in outcomes),
        )
        for key in keys
    ]
    names = [outcome.device.name for outcome in outcomes]
    if rows:
        echo()
        heads = ("variant", "threads", "on") if by_provider else ("variant", "threads")
        table((*heads, *names), rows, title="p50 in ms", right=names)


def remark(profile: Profile) -> None:
    """Say on stderr what makes these figures incomplete or doubtful."""
    name = "" if profile.device == "local" else f"{profile.device}: "
    for proof in profile.proofs:
        if not proof.holds:
            why = "; ".join(proof.failures)
            numbers = f" ({proof.arithmetic})" if proof.arithmetic not in (None, FLOAT) else ""
            secho(f"WRONG: {name}{proof.variant} in {proof.runtime}{numbers}: {why}", err=True, fg="red", bold=True)
    for each in profile.skipped:
        secho(f"NOT MEASURED: {name}{each.bundle}: {each.variant}: {each.reason}", err=True, fg="yellow", bold=True)
    if profile.emulated:
        secho(f"EMULATED: {profile.device}: what it computes is right, its times mean nothing", err=True, fg="yellow")
    for what in dict.fromkeys(what for result in profile.results for what in result.unknown):
        aside(f"note: {name}not known: {what}")
    load, cores = profile.before.load_average, profile.host.logical_cores
    if load and cores and load[0] > _BUSY * cores:
        aside(f"note: {name}the machine was busy before the first run (load {load[0]:.1f}, {cores} cores)")
    for result in profile.results:
        what = f"{name}{_words(result)}"
        for doubt in result.doubts:
            secho(f"NOT CLEAN: {what}: {doubt}", err=True, fg="yellow", bold=True)
        if result.steady is False:
            aside(f"note: {what}: latency was still changing when it ended; measure longer: --duration")
        if result.spread is not None and result.spread > _SPREAD:
            aside(f"note: {what}: p50 differs by {result.spread:.0%} between rounds")


def number(value: float | None) -> str:
    """Three digits or so: the rest is noise."""
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def _words(result: VariantProfile) -> str:
    return f"{result.bundle}: {result.variant}, {result.on_threads}"


def way_of(result: VariantProfile) -> str:
    """A file, and how it was run: ``onnx-int8 in onnxruntime, 4 threads on cores 4-7``."""
    numbers = f" in {result.arithmetic}" if result.arithmetic not in (None, FLOAT) else ""
    return f"{result.variant} in {result.runtime}{numbers}, {result.on_threads}"


def _key(result: VariantProfile) -> tuple[str, int, str]:
    """What tells results of one bundle apart."""
    on = (result.provider or CPU).split(" ")[0].removesuffix("ExecutionProvider")
    if result.runtime in BESIDE:  # whose provider is the CPU as well
        on = str(result.runtime)
    on += f" {result.arithmetic}" if result.arithmetic not in (None, FLOAT) else ""
    on += f", cores {result.cores}" if result.cores else ""
    return result.variant, result.threads, on


def _names(results: Sequence[VariantProfile]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """The columns that say what a row is; providers only where they tell rows apart."""
    by_provider = len({(each.variant, each.threads) for each in results}) < len(results)
    if not by_provider:
        return ("variant", "threads"), [(each.variant, each.threads) for each in results]
    rows: list[tuple[object, ...]] = []
    for each in results:
        rows.append(_key(each))
    return ("variant", "threads", "on"), rows


def _show_costs(
    bundle: str, results: Sequence[VariantProfile], keys: tuple[str, ...], names: Sequence[tuple[object, ...]]
) -> None:
    from edgespa.cli._output import table

    headings = ["file KiB", "load ms", "first run ms", "peak MiB"]
    costs = [
        (
            *name,
            f"{each.size_bytes / 1024:.0f}",
            number(each.load_ms),
            number(each.first_run_ms),
            number(None if each.peak_kib is None else each.peak_kib / 1024),
        )
        for name, each in zip(names, results, strict=True)
    ]
    table((*keys, *headings), costs, title=f"{bundle}: start and memory", right=headings)
    echo()


def _show_state(
    bundle: str,
    results: Sequence[VariantProfile],
    keys: tuple[str, ...],
    names: Sequence[tuple[object, ...]],
    *,
    always: bool,
) -> None:
    """What the machine was like: only the columns of which it says something."""
    from edgespa.cli._output import table

    columns = {
        "°C": [_over(each, _hottest, 0) for each in results],
        "MHz": [_over(each, _clock_mhz, 0) for each in results],
        "W": [_over(each, _watts, 2) for each in results],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    if not (shown or always):
        return
    steady = {True: "yes", False: "no", None: "?"}
    clean = {True: "yes", False: "NO", None: "?"}
    rows = [
        (*name, *(cells[i] for cells in shown.values()), steady[each.steady], clean[each.clean])
        for i, (name, each) in enumerate(zip(names, results, strict=True))
    ]
    table((*keys, *shown, "steady", "clean"), rows, title=f"{bundle}: the machine meanwhile, from - to", right=[*shown])
    echo()


def _over(result: VariantProfile, what: Callable[[Conditions], float | None], digits: int) -> str:
    """The lowest and the highest of a figure over all states of a result."""
    states = [state for each in result.rounds for state in (each.before, *each.samples, each.after) if state]
    values = [value for state in states if (value := what(state)) is not None]
    if not values:
        return ""
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} - {high}"


def _hottest(state: Conditions) -> float | None:
    return max(state.temperature_c.values(), default=None)


def _clock_mhz(state: Conditions) -> float | None:
    clock = state.arm_clock_khz or state.frequency_khz
    return None if clock is None else clock / 1000


def _watts(state: Conditions) -> float | None:
    """The board's input where a rail has that name, else the sum of the rails."""
    rails = state.power_mw
    whole = [power for name, power in rails.items() if name.upper() in ("VDD_IN", "POM_5V_IN")]
    return (whole[0] if whole else sum(rails.values())) / 1000 if rails else None


def _show_estimates(profile: Profile) -> None:
    from edgespa.cli._output import table

    estimates = {(each.variant, each.threads): each.latency_ms for each in profile.estimates}
    # They are of the CPU.
    own = [
        each
        for each in profile.results
        if each.bundle == profile.bundle and str(each.provider).startswith(CPU) and each.runtime not in BESIDE
    ]
    rows = [
        (each.variant, each.threads, number(each.p50_ms), number(value), f"{each.p50_ms / value:.2f}")
        for each in own
        if (value := estimates.get((each.variant, each.threads))) is not None
    ]
    if rows:
        headings = ("measured p50 ms", "ESTIMATE ms", "ratio")
        title = f"Beside an estimate from published latencies of {profile.device}"
        table(("variant", "threads", *headings), rows, title=title, right=headings)
        echo()
