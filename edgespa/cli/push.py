"""``edgespa push``: a bundle or a task file to a hub or a registry."""

from __future__ import annotations

from pathlib import Path

import click

from edgespa.cli._help import Explained
from edgespa.cli._options import json_option, trust_option
from edgespa.cli._said import say_next
from edgespa.cli._sections import PUSH, PUSH_EXAMPLES
from edgespa.cli._terminal import echo


@click.command(name="push", cls=Explained, sections=PUSH, examples=PUSH_EXAMPLES)
@click.argument("source", metavar="BUNDLE|TASK", type=click.Path(path_type=Path))
@click.argument("target", metavar="hf://ORG/NAME|oci://HOST/NAME:TAG")
@click.option("--with-base", is_flag=True, help="With a task file: its base's tensors too, one file for all its tasks.")
@click.option("--base", metavar="MODEL", help="Of a task file: its base, if it is not where it was.")
@click.option("--weights", metavar="FILE", help="Of a task file: the weights of its base.")
@trust_option()
@click.option("--license", metavar="TEXT", help="Of a task file: the licence of its base's weights: Apache-2.0.")
@click.option("--base-model", metavar="ORG/NAME", help="On the hub: which model there the base is, for the card.")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="ORG/NAME",
    help="On the hub: which data there it was trained on, for the card; may be repeated.",
)
@click.option("--public", is_flag=True, help="On the hub: a repository that is made for it is shown to everybody.")
@click.option("--plain-http", is_flag=True, help="To a registry without TLS; not needed on this machine.")
@json_option()
def command(
    source: Path,
    target: str,
    with_base: bool,
    base: str | None,
    weights: str | None,
    trust: bool,
    license: str | None,
    base_model: str | None,
    datasets: tuple[str, ...],
    public: bool,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Put a bundle or a task file on the Hugging Face hub, or into an OCI registry.

    Every file is checked first. In a registry it is a CNCF ModelPack artifact with a layer per file: what is there
    already, of another version or another task on the same base, is not sent again. On the hub its page is the model
    card, with all that was measured. Credentials are those of `docker login` and `hf auth login`.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json

    found = es.push(
        source,
        target=target,
        with_base=with_base,
        base=base,
        weights=weights,
        trust=trust,
        license=license,
        base_model=base_model,
        datasets=datasets,
        public=public,
        plain_http=plain_http,
    )
    if as_json:
        emit_json(found)
        return
    echo(str(found))
    say_next(f"edgespa pull {found.target} --output {'bundle' if found.kind == 'bundle' else 'tasks'}")
