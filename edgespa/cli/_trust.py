"""Options about who made a bundle, the same in all commands that open one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


def signers_options() -> Callable[[_F], _F]:
    """``--signers``, ``--identity`` and ``--revoked``; see `require_signers`."""

    def decorate(function: _F) -> _F:
        function = click.option(
            "--revoked",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Refuse what is signed with a key in FILE: public keys, or a KRL of ssh-keygen's.",
        )(function)
        function = click.option(
            "--identity", metavar="NAME", help="Refuse what anyone but NAME of --signers has signed."
        )(function)
        return click.option(
            "--signers",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help='Refuse what nobody in FILE has signed: lines of "name key-type key", as for ssh-keygen.',
        )(function)

    return decorate


def require_signers(signers: Path | None, identity: str | None, revoked: Path | None = None) -> None:
    """Refuse a name without the file that names it, and revoked keys without those that are not.

    Raises:
        click.UsageError: There is no file.
    """
    if identity is not None and signers is None:
        raise click.UsageError("--identity needs --signers, the file that names it")
    if revoked is not None and signers is None:
        raise click.UsageError("--revoked needs --signers, the file of those who may sign")
