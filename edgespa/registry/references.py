"""Where something lies: ``hf://ORG/NAME[@REVISION]`` on a hub, ``oci://HOST/NAME[:TAG|@sha256:...]`` in a registry."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from edgespa.errors import ConfigError
from edgespa.system.bounds import shown

HUB, REGISTRY = "hf://", "oci://"
_HUB_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_HUB_NAME = re.compile(rf"(?P<name>{_HUB_PART}/{_HUB_PART})(?:@(?P<revision>[^@\s]{{1,200}}))?")
# The grammar of the distribution specification: lower case, single separators.
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_OCI_NAME = re.compile(
    rf"(?P<host>{_HOST})/(?P<name>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_MOST_NAME = 255


@dataclass(frozen=True)
class HubReference:
    """A repository of models on a hub.

    Attributes:
        name: ``ORG/NAME``.
        revision: A branch, a tag or a commit; None for the main branch.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{HUB}{self.name}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class RegistryReference:
    """A tag, or a manifest, in a registry.

    Attributes:
        host: Name and port.
        name: The repository.
        tag: ``latest`` where neither tag nor digest is said; None beside a digest alone.
        digest: ``sha256:...`` of the manifest; it counts before the tag.
    """

    host: str
    name: str
    tag: str | None = "latest"
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{REGISTRY}{self.host}/{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, where docker speaks plain HTTP too."""
        host = self.host.rpartition(":")[0] if re.search(r":[0-9]+$", self.host) else self.host
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            return False


Reference = HubReference | RegistryReference


def is_reference(text: str) -> bool:
    """Whether a text is meant as a place on a hub or in a registry."""
    return text.startswith((HUB, REGISTRY))


def parse_reference(text: str) -> Reference:
    """What a text names.

    Raises:
        ConfigError: It is neither of the two forms.
    """
    if text.startswith(HUB):
        found = _HUB_NAME.fullmatch(text.removeprefix(HUB))
        if found is None or ".." in found["name"] or "--" in found["name"]:
            raise ConfigError(f"{shown(text)} is no place on a hub", "write hf://ORG/NAME or hf://ORG/NAME@REVISION")
        return HubReference(found["name"], found["revision"])
    if text.startswith(REGISTRY):
        found = _OCI_NAME.fullmatch(text.removeprefix(REGISTRY))
        if found is None or len(found["name"]) > _MOST_NAME:
            lower = " (names of repositories are in lower case)" if text != text.lower() else ""
            raise ConfigError(
                f"{shown(text)} is no place in a registry{lower}",
                "write oci://HOST/NAME:TAG, or oci://HOST/NAME@sha256:DIGEST",
            )
        tag = found["tag"] or (None if found["digest"] else "latest")
        return RegistryReference(found["host"], found["name"], tag, found["digest"])
    raise ConfigError(
        f"{shown(text)} is no place on a hub or in a registry", "write hf://ORG/NAME, or oci://HOST/NAME:TAG"
    )
