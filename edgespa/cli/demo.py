"""``edgespa demo``: the whole way on data that needs no download."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgespa.cli._help import Explained
from edgespa.cli._options import json_option, seed_option
from edgespa.cli._sections import DEMO_EXAMPLES
from edgespa.cli._terminal import echo

if TYPE_CHECKING:
    from edgespa.api.demo import Result


@click.command(name="demo", cls=Explained, examples=DEMO_EXAMPLES)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("edgespa-demo"),
    show_default=True,
    help="Folder for everything that the demo makes; an earlier demo there is replaced, anything else is left alone.",
)
@seed_option()
@json_option()
def command(output: Path, seed: int, as_json: bool) -> None:
    """Train, adapt, prune, compact, export, prove and profile on handwritten digits, in a few minutes.

    A small network learns the digits 0 to 4; SPLoRA adapts it to 5 to 9 while it is pruned to 40% channel density; the
    result is exported, proved, and measured against an unpruned adaptation in the same run.
    """
    from edgespa.api.demo_folder import require_own_folder

    require_own_folder(output)

    from edgespa.api.demo import run
    from edgespa.cli._output import emit_json, progress

    with progress("demo") as report:
        result = run(output, seed=seed, progress=report)
    if as_json:
        emit_json(
            {
                "bundle": result.bundle,
                "unpruned": result.unpruned,
                "base_accuracy": result.base_accuracy,
                "base_images": result.base_images,
                "test_images": result.test_images,
                "figures": result.task.header.figures,
                "metrics": result.task.header.metrics,
                "variants": result.rows,
                "seconds": result.seconds,
                "report": result.report,
            }
        )
    else:
        _show(result)


def _show(result: Result) -> None:
    from edgespa.cli._output import table
    from edgespa.system.started import python

    figures = result.task.header.figures
    echo(f"base: digits 0-4, test accuracy {result.base_accuracy:.2%} ({result.base_images:,} images)")
    echo(
        f"task: digits 5-9 at {figures.channel_density:.0%} of the channels, "
        f"{figures.parameters / figures.base_parameters:.0%} of the parameters, "
        f"{figures.macs / figures.base_macs:.0%} of the MACs"
    )
    rows = [
        [
            row.variant,
            f"{row.size_bytes / 1024:.0f} ({row.size_bytes / row.reference_size_bytes:.0%})",
            f"{row.accuracy:.1%} ({100 * (row.accuracy - row.reference_accuracy):+.1f})",
            f"{row.error:.0e}",
            f"{row.p50_ms:.3f} ({row.p50_ms / row.reference_p50_ms:.2f}x)",
            f"{row.p90_ms:.3f}",
        ]
        for row in result.rows
    ]
    columns = ["variant", "KiB", "accuracy", "error", "p50 ms", "p90 ms"]
    table(columns, rows, title="Compact model, in brackets against the unpruned one", right=columns[1:])
    echo(f"accuracy: on {result.test_images:,} test images of the digits 5-9")
    echo("error: of the output that is farthest from the program's, against how much that one varies")
    echo(f"bundle: {result.bundle}   (unpruned: {result.unpruned}; {result.seconds:.0f} s in all)")
    if result.report is not None:
        echo(f"report: {result.report}   (a page with pictures of all this: open it in a browser)")
    else:
        from edgespa.system.started import installing

        echo(f"report: none, its charts need plotly: {installing('report')}")
    echo(f"next: {python()} {shlex.quote(str(result.bundle / 'run.py'))} --selfcheck --variant all")
