"""``edgespa pack``: a bundle as one file."""

from __future__ import annotations

from pathlib import Path

import click

from edgespa.cli._options import json_option, output_options
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._sections import PACK, PACK_EXAMPLES
from edgespa.cli._terminal import echo


@click.command(name="pack", cls=Repeatable, sections=PACK, examples=PACK_EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@output_options("The archive, a .tar file,")
@recipe_options()
@json_option()
def command(bundle: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Write a bundle as one file.

    Every file is checked first. The same bundle gives the same bytes, whoever packs it and when. verify and profile
    take the archive as they take the folder; profiles/ stays out of it.
    """
    from edgespa.api.shell import checked
    from edgespa.bundle import pack, sha256_file
    from edgespa.cli._output import emit_json
    from edgespa.system.files import refuse_existing

    refuse_existing(output, overwrite)
    checked(bundle)
    size = pack(bundle, output, overwrite=overwrite)
    digest = sha256_file(output)
    if as_json:
        emit_json({"archive": str(output), "size_bytes": size, "sha256": digest})
    else:
        echo(f"{output}: {size:,} bytes")
        echo(f"sha256 {digest}")
