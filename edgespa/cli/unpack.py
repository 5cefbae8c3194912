"""``edgespa unpack``: the folder of a packed bundle."""

from __future__ import annotations

from pathlib import Path

import click

from edgespa.cli._options import json_option, output_options
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._said import say_next, typed
from edgespa.cli._sections import UNPACK, UNPACK_EXAMPLES
from edgespa.cli._terminal import echo
from edgespa.cli._trust import require_signers, signers_options


@click.command(name="unpack", cls=Repeatable, sections=UNPACK, examples=UNPACK_EXAMPLES)
@click.argument("archive", type=click.Path(path_type=Path))
@output_options("The folder")
@signers_options()
@recipe_options()
@json_option()
def command(
    archive: Path,
    output: Path,
    overwrite: bool,
    signers: Path | None,
    identity: str | None,
    revoked: Path | None,
    as_json: bool,
) -> None:
    """Make a bundle's folder from what `edgespa pack` wrote, a file or an OCI layout.

    Every file is checked against the manifest on the way; nothing is left if one is not as it should be. With --signers
    the signature is checked before anything is written. Nothing of the bundle is run.
    """
    from edgespa.api.shell import checked
    from edgespa.bundle import Approval, BundleWriter, unpack
    from edgespa.cli._output import emit_json
    from edgespa.registry.fetching import fetch_bundle
    from edgespa.registry.layout import LayoutSource
    from edgespa.system.files import require_folder_possible
    from edgespa.system.recognised import is_layout

    require_signers(signers, identity, revoked)
    BundleWriter(output, overwrite=overwrite)
    require_folder_possible(output)
    checked(archive)
    approval = Approval(archive, signers, identity, revoked)
    if is_layout(archive):
        manifest = fetch_bundle(LayoutSource(archive), output, approval, overwrite=overwrite)
    else:
        manifest = unpack(archive, output, overwrite=overwrite, approve=approval)
    signed = approval.signed
    if as_json:
        size = sum(entry.size_bytes for entry in manifest.files)
        known = {"bundle": str(output), "task": manifest.task, "files": len(manifest.files), "size_bytes": size}
        emit_json({**known, "signed_by": signed.identity if signed else None})
        return
    echo(f"{output}: {len(manifest.files)} files, all as in the manifest")
    if signed is not None:
        echo(f"signed by {signed.identity} with {signed.key}")
    say_next(f"edgespa verify {typed(output)}")
    if approval.is_signed and signed is None:
        echo("note: the signature was not checked: pass --signers FILE", err=True)
