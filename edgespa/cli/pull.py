"""``edgespa pull``: a bundle or a task file from a hub or a registry."""

from __future__ import annotations

from pathlib import Path

import click

from edgespa.cli._help import Explained
from edgespa.cli._options import json_option, output_options
from edgespa.cli._said import say_next, typed
from edgespa.cli._sections import PULL, PULL_EXAMPLES
from edgespa.cli._terminal import echo
from edgespa.cli._trust import require_signers, signers_options


@click.command(name="pull", cls=Explained, sections=PULL, examples=PULL_EXAMPLES)
@click.argument("source", metavar="hf://ORG/NAME|oci://HOST/NAME:TAG")
@output_options("The bundle, a folder, or the folder for task files,")
@click.option("--with-base", is_flag=True, help="Of a task file: fetch its base's tensors too, unless they are there.")
@signers_options()
@click.option("--plain-http", is_flag=True, help="From a registry without TLS; not needed on this machine.")
@json_option()
def command(
    source: str,
    output: Path,
    overwrite: bool,
    with_base: bool,
    signers: Path | None,
    identity: str | None,
    revoked: Path | None,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Fetch a bundle or a task file from the Hugging Face hub, or from an OCI registry.

    With --signers the signature is checked before anything but the manifest is fetched. Sizes and digests of all files
    are those of the manifest, and nothing is left if one is not as it should be. Nothing of it is run.
    """
    import edgespa as es
    from edgespa.cli._output import emit_json

    require_signers(signers, identity, revoked)
    found = es.pull(
        source,
        output=output,
        with_base=with_base,
        signers=signers,
        identity=identity,
        revoked=revoked,
        plain_http=plain_http,
        overwrite=overwrite,
    )
    if as_json:
        emit_json(found)
        return
    echo(str(found))
    if found.kind == "bundle":
        say_next(f"edgespa verify {typed(found.path)}")
    else:
        say_next(f"edgespa tasks {typed(found.path.parent)}")
    if found.is_signed and found.signed_by is None:
        echo("note: the signature was not checked: pass --signers FILE", err=True)
