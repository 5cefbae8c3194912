"""What adapt and prune say about the task that they leave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.cli._said import free, say_next, typed
from edgespa.cli._terminal import echo

if TYPE_CHECKING:
    from edgespa.bundle import Manifest


def to_export(output: Path) -> str:
    """The command that exports a task, into a folder that is not there yet.

    Args:
        output: The task file.
    """
    return f"edgespa export {typed(output)} --output {typed(free(Path(output.stem)))}/"


def how_well(manifest: Manifest) -> str | None:
    """How well a bundle's files do by the objective's measure, in a line; None where nothing was measured.

    Args:
        manifest: Of the bundle; of a task that is shipped beside its base, which has the task's own figure.
    """
    from edgespa.objectives.measured import measured

    known = [each.accuracy for each in manifest.variants if each.accuracy is not None]
    if known:
        lowest, highest = (each(known, key=lambda quality: quality.value) for each in (min, max))
        span = f" to {highest.figure}" if highest.figure != lowest.figure else ""
        return f"{lowest.of.title} {lowest.figure}{span} on {lowest.count:,} samples of {lowest.data}"
    task = manifest.provenance.get("task")
    metrics = task.get("metrics") if isinstance(task, dict) else None
    plain = metrics.items() if isinstance(metrics, dict) else ()
    numbers = {name: float(value) for name, value in plain if isinstance(value, int | float)}
    found = [each for each in measured(numbers) if not (each.of or each.store)]
    best = next((each for each in found if each.kind == "test"), next(iter(found), None))
    return None if best is None else f"{best.name} {best}"


def show_task(summary: dict[str, Any], next_command: str) -> None:
    """Print a task's figures and what can be done with it."""
    from edgespa.cli._output import table
    from edgespa.objectives.measured import measured

    rows = [
        ["parameters", f"{summary['parameters']:,}", f"{summary['base_parameters']:,}", _share(summary, "parameters")],
        ["MACs", f"{summary['macs']:,}", f"{summary['base_macs']:,}", _share(summary, "macs")],
        ["channels", "", "", f"{summary['channel_density']:.1%}"],
    ]
    if summary["kept_blocks"]:
        kept, _, of = summary["kept_blocks"].partition(" of ")
        rows.append(["blocks", kept, of, f"{int(kept) / int(of):.1%}"])
    for each in summary.get("foretold", ()):
        threads = f", {each['threads']} threads" if each["threads"] > 1 else ""
        what = f"ms foretold ({each['device']}, {each['variant']}{threads})"
        share = f"{each['latency_ms'] / each['whole_ms']:.1%}" if each["whole_ms"] else "-"
        rows.append([what, f"{each['latency_ms']:.4g}", f"{each['whole_ms']:.4g}", share])
    found = measured(summary["metrics"])
    base = {each.name: each.figure for each in found if each.of == "base"}
    for each in found:
        if each.of != "base":
            rows.append([f"{each.name} ({each.count})", each.figure, base.get(f"base {each.name}", ""), ""])
    table(["", "task", "base", "density"], rows, right=["task", "base", "density"])
    if latency := summary["latency"]:
        _show_latency(latency)
    if shapes := summary.get("shapes"):
        _show_shapes(shapes)
    if blocks := summary["blocks"]:
        zeros = f"{blocks['zero_weights']:,} weights are zero, which saves storage, not time"
        echo(f"blocks: {blocks['kept']:,} of {blocks['of']:,} are kept; {zeros}")
    for what, key in (
        ("left frozen", "frozen"),
        ("trained whole", "trained_whole"),
        ("another adapter", "other_adapters"),
    ):
        if summary.get(key):
            echo(f"{what}: {_listed(summary[key])}")
    if count := summary["added_norms"]:
        echo(f"batch norms added: {count}, behind convolutions without one (--norms keep leaves them out)")
    if own := summary["lowered_lr_from"]:
        echo(f"learning rate: {summary['lr']:g}, for a few steps at {own:g} did harm (--lr gives another one)")
    echo(f"{summary['file']}: {summary['size_bytes']:,} bytes")
    say_next(next_command)


def _show_latency(found: dict[str, Any]) -> None:
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    where = f"{found['variant']}, {threads}, {found['device']}{' (emulated)' if found['emulated'] else ''}"
    how = "ESTIMATED, not measured: " if found["estimated"] else ""
    whole, asked, obtained = (found[key] for key in ("whole_ms", "asked_ms", "obtained_ms"))
    echo(
        f"latency: {how}{obtained:.3g} ms, asked {asked:g}, whole network {whole:.3g} ({where}; "
        f"{len(found['trials'])} candidates, {found['density']:.3g} of the {found['of']})"
    )
    if found.get("losses"):
        _show_shapes(found)
    if layers := found.get("layers"):
        _show_layers(layers)


def _show_layers(layers: list[dict[str, Any]]) -> None:
    """The layers that take most, with what is left of them."""
    from edgespa.cli._output import table
    from edgespa.cli._profile import number

    def took(each: dict[str, Any]) -> float:
        return float(each["foretold_ms"] if each["measured_ms"] is None else each["measured_ms"])

    def width(sizes: list[int]) -> str:
        return " x ".join(map(str, sizes))

    slow = sorted(layers, key=lambda each: -took(each))
    rows = [
        [
            each["layer"],
            width(each["widths"]),
            width(each["of"]),
            number(each["foretold_ms"]),
            number(each["measured_ms"]),
        ]
        for each in slow[:_SLOWEST]
    ]
    if rest := slow[_SLOWEST:]:
        rows.append([f"{len(rest)} others", "", "", number(sum(each["foretold_ms"] for each in rest)), ""])
    columns = ["layer", "kept", "of", "ms foretold", "measured"]
    table(columns, rows, title="What its layers take, the slowest first", right=columns[1:])


def _show_shapes(found: dict[str, Any]) -> None:
    """Blocks that are gone, and where most is lost, of a network whose layers' widths were each found for itself."""
    lost = sorted(((value, name) for name, value in found["losses"].items() if value > 0), reverse=True)
    if removed := found["removed"]:
        echo(f"blocks gone: {', '.join(removed)}")
    if lost:
        named = ", ".join(f"{name} {value:.2g}" for value, name in lost[:_SHOWN])
        echo(f"foretold loss {sum(value for value, _ in lost):.2g}, most of it with {named}")


def _listed(reasons: dict[str, str]) -> str:
    """Names by their reason; of more than a few only the first."""
    by_reason: dict[str, list[str]] = {}
    for name, why in reasons.items():
        by_reason.setdefault(why, []).append(name)
    parts = []
    for why, names in by_reason.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        parts.append(f"{', '.join(names[:_SHOWN])}{more} ({why})")
    return "; ".join(parts)


_SHOWN = 4
_SLOWEST = 8


def _share(summary: dict[str, Any], what: str) -> str:
    return f"{summary[what] / summary[f'base_{what}']:.1%}" if summary[f"base_{what}"] else "-"
