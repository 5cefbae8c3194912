"""``edgespa devices pull`` and ``edgespa devices agent``: devices that fetch their tasks themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgespa.cli._options import json_option
from edgespa.cli._pulls import show_pull
from edgespa.cli._recipes import Repeatable, recipe_options
from edgespa.cli._rollout import window_options
from edgespa.cli._sections import DEVICES_AGENT, DEVICES_AGENT_EXAMPLES, DEVICES_PULL, DEVICES_PULL_EXAMPLES
from edgespa.cli._terminal import echo, harmless, secho

if TYPE_CHECKING:
    from edgespa.device.provision.pulling import PullSetUp


@click.command(name="pull", cls=Repeatable, sections=DEVICES_PULL, examples=DEVICES_PULL_EXAMPLES)
@click.argument("name")
@click.argument("url")
@click.option(
    "--signers",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Who may sign what it takes: lines of "name key-type key", as for ssh-keygen.',
)
@click.option("--unsigned", is_flag=True, help="Take what nobody has signed: whoever has the server decides then.")
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="That it is in; may be repeated.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="That it is of: pi-5, say; may be repeated.")
@click.option("--every", metavar="TIME", help="Write a systemd timer there too: 30min, 1h, 1d.")
@click.option("--keep", type=click.IntRange(min=1), default=3, show_default=True, help="Versions that stay there.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="For the self-check.")
@window_options("Health window of each version that it pulls: it watches itself so long, and goes back by itself.")
@click.option("--no-pull", is_flag=True, help="Do not pull now.")
@recipe_options()
@json_option()
def pull(
    name: str,
    url: str,
    signers: Path | None,
    unsigned: bool,
    groups: tuple[str, ...],
    kinds: tuple[str, ...],
    every: str | None,
    keep: int,
    threads: int,
    watch_s: float | None,
    health_command: str | None,
    health_every_s: float | None,
    health_timeout_s: float,
    max_latency_ms: float | None,
    no_pull: bool,
    as_json: bool,
) -> None:
    """Let a device fetch its tasks itself from URL, a folder of `edgespa ship --to`: behind a router, say.

    The agent is put there as a program, edgespa-agent, with who may sign and which groups the device is in; its name
    and its instruction set are kinds that it is of, too. Then it pulls once: what is for it is fetched, checked by
    signature and digests, run on its recorded inputs, and only then in use. Everything after that needs no host: the
    timer, or edgespa-agent pull, typed there. Exit status 1 if that pull fails.
    """
    from edgespa.api.rollout_verbs import watch_of
    from edgespa.api.shell import checked
    from edgespa.cli._output import emit_json, progress
    from edgespa.device import connect, load_device
    from edgespa.device.provision.pulling import set_up_pull
    from edgespa.errors import ConfigError
    from edgespa.system.files import expanded, plain_text

    if (signers is None) != unsigned:
        raise click.UsageError(
            "say who may sign what it takes: --signers FILE; or that nobody has to: --unsigned"
            if signers is None
            else "--signers says who may sign, --unsigned that nobody has to: give one of them"
        )
    text = None
    if signers is not None:
        try:
            text = plain_text(expanded(signers))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{signers} cannot be read: {error}", 'write it: one line each, "name key-type key"'
            ) from error
    watch = watch_of((watch_s, health_command, health_every_s, health_timeout_s, max_latency_ms, 0))
    device = load_device(name)
    checked()
    with connect(device) as connection, progress(f"{name}: setting it up to pull"):
        done = set_up_pull(
            connection,
            url,
            signers=text,
            groups=groups,
            kinds=kinds,
            keep=keep,
            threads=threads,
            every=every,
            watch=watch,
            pull=not no_pull,
        )
    if as_json:
        emit_json(done)
    else:
        _show(done)
    if done.pulled is not None and not done.pulled.ok:
        raise click.exceptions.Exit(1)


def _show(done: PullSetUp) -> None:
    echo(harmless(f"{done.device}: pulls from {done.url}"))
    echo(harmless(f"by hand, there: {done.agent} pull"))
    for unit in done.units:
        echo(harmless(f"written: {unit}"))
    if done.enable is not None:
        echo(harmless(f"now type there: {done.enable}"))
    if done.watch_s is not None:
        echo(f"each version that it pulls is watched there for {done.watch_s:g} s, and gone back from if it fails")
    if not done.signed:
        secho("note: nothing has to be signed: whoever has the server decides what runs there", err=True, fg="yellow")
    if done.pulled is not None:
        show_pull(done.device, done.pulled)


@click.command(name="agent", cls=Repeatable, sections=DEVICES_AGENT, examples=DEVICES_AGENT_EXAMPLES)
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The program to write.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@recipe_options()
@json_option()
def agent(output: Path, overwrite: bool, as_json: bool) -> None:
    """Write the program that pulls, one file for Python 3.8 or newer: for an image of a card, or to copy by hand.

    On the device: edgespa-agent setup URL --signers FILE, then edgespa-agent pull. It needs nothing else but the
    runtimes in which models run.
    """
    from edgespa.api.shell import checked
    from edgespa.cli._output import emit_json
    from edgespa.device.ours import pull_source
    from edgespa.system.files import refuse_existing, require_writable, write_whole

    refuse_existing(output, overwrite)
    require_writable(output)
    checked()
    content = pull_source()
    write_whole(output, content, mode=0o777)
    if as_json:
        emit_json({"path": output, "size_bytes": len(content)})
    else:
        echo(f"{output}: {len(content):,} bytes; there: python3 {output.name} setup URL --signers FILE")
