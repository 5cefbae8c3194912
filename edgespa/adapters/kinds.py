"""The kinds of adapters: those that come with edgespa, and those of entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from edgespa.adapters.base import Adapter
from edgespa.adapters.convpass import Convpass
from edgespa.adapters.lora import LoRA
from edgespa.adapters.mixing import Mixing
from edgespa.adapters.repadapter import RepAdapter
from edgespa.adapters.splopa import SPLoPA
from edgespa.adapters.splora import SPLoRA
from edgespa.adapters.ssf import SSF
from edgespa.errors import AdapterError, ConfigError

GROUP = "edgespa.adapters"
FULL = "full"  # fine-pruning: every weight is trained directly, the baseline of every comparison
FULL_LR = 1e-2  # AdamW; measured by benchmarks/main_job/defaults.py
KINDS: Mapping[str, type[Adapter]] = MappingProxyType(
    {kind.kind: kind for kind in (SPLoRA, LoRA, Mixing, SSF, RepAdapter, Convpass, SPLoPA)}
)


def method_names() -> tuple[str, ...]:
    """All kinds, those of entry points last, and ``full``; nothing is imported for it."""
    own = (*KINDS, FULL)
    return (*own, *(name for name in _plugins() if name not in own))


def kind_named(name: str) -> type[Adapter]:
    """The class of a kind.

    Raises:
        ConfigError: If there is none of that name, or its entry point is of no use; it names the package.
    """
    if name in KINDS:
        return KINDS[name]
    point = _plugins().get(name)
    if point is None:
        raise ConfigError(f"unknown adapter '{name}'", f"choose one of: {', '.join(method_names())}")
    where = f"the adapter '{name}' of {point.dist.name if point.dist else point.value}"
    try:
        found = point.load()
    except Exception as error:  # the code of a plugin
        raise ConfigError(f"{where} cannot be imported: {error}", "repair or uninstall that package") from error
    if not (isinstance(found, type) and issubclass(found, Adapter)) or getattr(found, "kind", None) != name:
        raise ConfigError(
            f"{where} is not a subclass of edgespa.adapters.base.Adapter of kind '{name}'", "repair that package"
        )
    return found


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def options_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A kind's options: its defaults with what is given in their place.

    Raises:
        ConfigError: If an option is not one of the kind's, or has a value that makes no sense.
    """
    if name == FULL:
        if given:
            raise ConfigError(f"'{FULL}' has no option {sorted(given)[0]}", "leave it out")
        return {}
    kind = kind_named(name)
    for key in given:
        if key not in kind.defaults:
            known = ", ".join(kind.defaults) or "none"
            raise ConfigError(f"the adapter '{name}' has no option {key}", f"its options: {known}")
    options = {}
    for key, default in kind.defaults.items():
        value = given.get(key, default)
        if isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if type(value) is not type(default):
            raise ConfigError(f"option {key} of '{name}' is {value!r}", f"give a {type(default).__name__}: {default}")
        options[key] = value
    try:
        kind.check_options(options)
    except AdapterError as error:
        raise ConfigError(error.message, error.hint) from error
    return options


def default_lr(name: str) -> float:
    """Peak learning rate of AdamW for a kind."""
    return FULL_LR if name == FULL else kind_named(name).default_lr
