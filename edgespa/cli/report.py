"""``edgespa report``: one page of bundles, tasks, profiles, recipes and training logs."""

from __future__ import annotations

from pathlib import Path

import click

from edgespa.cli._options import json_option, seed_option, trust_option
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._sections import REPORT, REPORT_EXAMPLES
from edgespa.cli._terminal import echo
from edgespa.cli._trust import require_signers, signers_options


@click.command(name="report", cls=Repeatable, sections=REPORT, examples=REPORT_EXAMPLES)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="The page.",
)
@click.option("--overwrite", is_flag=True, help="Replace the page that is there already.")
@click.option("--title", metavar="TEXT", help="Its heading.  [default: what it is about]")
@click.option(
    "--examples",
    type=click.IntRange(0, 24),
    default=8,
    show_default=True,
    metavar="N",
    help="Inputs of each bundle to show with what its files say of them, where they disagree most with the original; 0 "
    "runs none of its files.",
)
@click.option(
    "--images", metavar="DATA", help="Show them on these images.  [default: the inputs that each bundle recorded]"
)
@seed_option()
@signers_options()
@trust_option()
@recipe_options()
@json_option()
def command(
    paths: tuple[Path, ...],
    output: Path,
    overwrite: bool,
    title: str | None,
    examples: int,
    images: str | None,
    seed: int,
    signers: Path | None,
    identity: str | None,
    revoked: Path | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Make one page of bundles, task files, profiles, recipes and training logs.

    The page is one HTML file that needs nothing else: quality against latency, what is left of each layer, proofs,
    times per layer, training, examples, provenance. A PATH is a bundle (a folder or a packed file), a task file, a
    profile (.json), a recipe (.toml), a training log (.jsonl) or what prune --method sls --plot wrote as .json; a
    folder that is no bundle stands for what lies in it. No code of theirs is run.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json

    require_signers(signers, identity, revoked)
    found = es.report(
        paths,
        output=output,
        title=title,
        examples=examples,
        images=images,
        signers=signers,
        identity=identity,
        revoked=revoked,
        trust=trust,
        seed=seed,
        overwrite=overwrite,
    )
    if as_json:
        emit_json(found)
        return
    echo(f"shows: {found.shows}")
    echo(f"in: {', '.join(found.sections)}")
    for note in found.notes:
        echo(f"not shown: {note}")
    echo(f"page: {found.path} ({found.size_bytes / 1e6:.1f} MB; open it in a browser)")
