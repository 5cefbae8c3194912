"""``edgespa unpack``: the folder of a packed bundle."""

from __future__ import annotations

from pathlib import Path

import click

from edgespa.cli._options import json_option, output_options


@click.command(name="unpack")
@click.argument("archive", type=click.Path(path_type=Path))
@output_options("The folder")
@json_option()
def command(archive: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Make a bundle's folder from what `edgespa pack` wrote.

    Every file is checked against the manifest on the way; nothing is left if one is not as it should be.
    """
    from edgespa.bundle import unpack
    from edgespa.cli._output import emit_json

    manifest = unpack(archive, output, overwrite=overwrite)
    if as_json:
        size = sum(entry.size_bytes for entry in manifest.files)
        emit_json({"bundle": str(output), "task": manifest.task, "files": len(manifest.files), "size_bytes": size})
    else:
        click.echo(f"{output}: {len(manifest.files)} files, all as in the manifest")
        click.echo(f"next: edgespa verify {output}")
