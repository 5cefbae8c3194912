"""``edgespa sign``: an OpenSSH signature for a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from edgespa.cli._options import json_option
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._sections import SIGN, SIGN_EXAMPLES
from edgespa.cli._terminal import echo


@click.command(name="sign", cls=Repeatable, sections=SIGN, examples=SIGN_EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    required=True,
    help="An OpenSSH key; the public half where an agent or a token holds the private one.",
)
@click.option("--overwrite", is_flag=True, help="Replace a signature that is there already.")
@recipe_options()
@json_option()
def command(bundle: Path, key: Path, overwrite: bool, as_json: bool) -> None:
    """Sign a bundle with an OpenSSH key.

    Every file is checked, then the manifest is signed, and with it the digests of all files. Whoever has the public
    key in a file of signers ("name key-type key" in each line) checks with: edgespa verify BUNDLE --signers FILE
    """
    from edgespa.api.shell import checked
    from edgespa.bundle import Signer, sign_bundle
    from edgespa.cli._output import emit_json

    signer = Signer.open(key)
    checked(bundle)
    sign_bundle(bundle, signer, overwrite=overwrite)
    if as_json:
        emit_json({"bundle": str(bundle), "key": signer.fingerprint})
    else:
        echo(f"{bundle} is signed with {signer.fingerprint}")
