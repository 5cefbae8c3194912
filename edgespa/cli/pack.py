"""``edgespa pack``: a bundle as one file, or as a folder for tools of registries."""

from __future__ import annotations

from pathlib import Path

import click

from edgespa.cli._options import json_option, output_options
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._sections import PACK, PACK_EXAMPLES
from edgespa.cli._terminal import echo


@click.command(name="pack", cls=Repeatable, sections=PACK, examples=PACK_EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(["tar", "oci"]),
    default="tar",
    show_default=True,
    help="tar: one file. oci: an OCI image layout, a folder that oras, skopeo and other tools put into registries.",
)
@output_options("The archive, a .tar file, or the layout, a folder,")
@recipe_options()
@json_option()
def command(bundle: Path, layout: str, output: Path, overwrite: bool, as_json: bool) -> None:
    """Write a bundle as one file, or as a folder for registries.

    Every file is checked first. The same bundle gives the same bytes, whoever packs it and when. verify and profile
    take the archive as they take the folder, and unpack makes the folder of either again; profiles/ stays out.
    """
    from edgespa.api.shell import checked
    from edgespa.bundle import open_bundle, pack, sha256_file
    from edgespa.cli._output import emit_json
    from edgespa.system.files import refuse_existing, require_folder_possible

    if layout == "oci":
        from edgespa.registry.artifact import bundle_artifact
        from edgespa.registry.layout import require_layout_possible, write_layout

        require_layout_possible(output, overwrite=overwrite)
        require_folder_possible(output)
        checked(bundle)
        with open_bundle(bundle) as opened:
            artifact = bundle_artifact(opened)
            size = write_layout(artifact, output, "latest", overwrite=overwrite)
        digest = artifact.digest.removeprefix("sha256:")
    else:
        refuse_existing(output, overwrite)
        checked(bundle)
        size = pack(bundle, output, overwrite=overwrite)
        digest = sha256_file(output)
    if as_json:
        emit_json({"archive": str(output), "size_bytes": size, "sha256": digest})
    else:
        echo(f"{output}: {size:,} bytes")
        echo(f"sha256 {digest}" + (" (of its manifest)" if layout == "oci" else ""))
