"""``edgespa card``: the model card of a bundle, with what was measured since."""

from __future__ import annotations

from pathlib import Path

import click

from edgespa.cli._options import json_option
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._sections import CARD, CARD_EXAMPLES
from edgespa.cli._terminal import echo


@click.command(name="card", cls=Repeatable, sections=CARD, examples=CARD_EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "json"]),
    default="markdown",
    show_default=True,
    help="json: the same for programs: base, licence, data, tools, digests, quality and latency, as values.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write it to this file instead of the screen.")
@click.option("--overwrite", is_flag=True, help="Replace what is there already.")
@recipe_options()
@json_option()
def command(bundle: Path, form: str, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Print the model card of a bundle, with the latencies of its profiles.

    The README.md inside the bundle was written before anything was measured, and is sealed; this one has all that lies
    in profiles/ too. Of a single file of a bundle (.onnx, .tflite, ...) it is what the file says of itself.
    """
    from edgespa.api.describing import describe
    from edgespa.api.shell import checked
    from edgespa.bundle import open_bundle
    from edgespa.cli._output import emit_json
    from edgespa.device.measure.saved import read_profiles
    from edgespa.exporting.card import whole_card
    from edgespa.exporting.card_facts import card_facts, facts_text
    from edgespa.exporting.said import can_say
    from edgespa.system.files import refuse_existing, write_whole

    if output is not None:
        refuse_existing(output, overwrite)
    told = describe(bundle) if bundle.is_file() and can_say(bundle) else None
    if told is not None and told.says:
        text = facts_text(told.to_dict()) if form == "json" else told.to_markdown()
    else:
        checked(bundle)
        with open_bundle(bundle) as opened:
            profiles = read_profiles(opened.folder)
            if form == "json":
                text = facts_text(card_facts(opened.manifest, opened.classes, profiles))
            else:
                text = whole_card(opened.manifest, opened.classes, profiles)
    if output is not None:
        write_whole(output, text.encode())
    if as_json:
        emit_json({"bundle": str(bundle), "card": text})
    elif output is None:
        echo(text, nl=False)
    else:
        echo(f"written: {output}")
