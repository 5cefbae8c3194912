"""A bundle or a task file as a CNCF ModelPack artifact: an OCI manifest with one layer per file.

github.com/modelpack/model-spec, docs/spec.md and docs/config.md. A layer is a file as it is, so that files which two
artifacts have in common are one blob: a base, a runner, a variant that did not change. The same files give the same
bytes. Written strictly, read strictly: what a manifest says of sizes and names is looked at before anything is fetched.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgespa.bundle.files import first_problem, read_manifest_bytes
from edgespa.bundle.limits import MAX_MANIFEST_BYTES, whole_number
from edgespa.bundle.manifest import MAX_FILES, Manifest
from edgespa.bundle.opened import OpenBundle
from edgespa.bundle.paths import MANIFEST, RUNNER, SIGNATURE, path_problem
from edgespa.bundle.variant import MAX_BYTES
from edgespa.errors import RegistryError
from edgespa.system.bounds import shown

ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_LAYERS = "application/vnd.cncf.model."
WEIGHT = f"{_LAYERS}weight.v1.raw"
WEIGHT_CONFIG = f"{_LAYERS}weight.config.v1.raw"
DOCUMENT = f"{_LAYERS}doc.v1.raw"
CODE = f"{_LAYERS}code.v1.raw"
DATASET = f"{_LAYERS}dataset.v1.raw"
FILEPATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"
"""What `oras pull` and registries' pages call a layer."""
TASK_SUFFIX = ".spa"
BASE_PREFIX, BASE_SUFFIX = "base-", ".safetensors"
_OTHER_TOOL = "it was not written by `edgespa push`: pull it with the tool that wrote it"


@dataclass(frozen=True)
class Layer:
    """One blob as a manifest names it.

    Attributes:
        path: Of the file; for a config it is empty.
        media_type: What it is.
        sha256: In hexadecimal.
        size_bytes: Of it.
    """

    path: str
    media_type: str
    sha256: str
    size_bytes: int

    @property
    def digest(self) -> str:
        """As OCI writes it."""
        return f"sha256:{self.sha256}"


@dataclass(frozen=True)
class Content:
    """A file to be written: where its bytes are, or they themselves."""

    path: str
    media_type: str
    source: Path | bytes

    def open(self) -> io.BytesIO | io.BufferedReader:
        """The bytes, from the beginning."""
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")

    def layer(self) -> Layer:
        """Its size and digest; reads it."""
        with self.open() as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return Layer(self.path, self.media_type, digest, stream.seek(0, io.SEEK_END))


@dataclass(frozen=True)
class Artifact:
    """An artifact that can be written.

    Attributes:
        manifest: The bytes of its manifest, whose digest is that of the artifact.
        config: The first of its blobs.
        contents: Its blobs by digest, the config's too, in the order of the manifest.
        layers: Those of the manifest.
    """

    manifest: bytes
    config: Layer
    contents: Mapping[str, Content]
    layers: tuple[Layer, ...]

    @property
    def digest(self) -> str:
        """``sha256:...`` of its manifest."""
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """What has to be there before its manifest: config and layers, each digest once."""
        return tuple({each.digest: each for each in (*self.layers, self.config)}.values())


def bundle_artifact(opened: OpenBundle) -> Artifact:
    """The artifact of a bundle: its manifest, its signature if there is one, and its files.

    Args:
        opened: All files of which were checked. Its profiles stay out, as of a packed bundle.
    """
    manifest, folder = opened.manifest, opened.folder
    weights = {name for each in manifest.variants for name in (each.file, *each.parts)}
    weights |= {name for each in manifest.variants if each.weights for name in each.weights.files}
    contents = [Content(MANIFEST, WEIGHT_CONFIG, read_manifest_bytes(folder))]
    if opened.is_signed:
        contents.append(Content(SIGNATURE, WEIGHT_CONFIG, (folder / SIGNATURE).read_bytes()))
    contents += [Content(entry.path, _kind(entry.path, weights), folder / entry.path) for entry in manifest.files]
    precisions = list(dict.fromkeys(each.precision for each in manifest.variants))
    answers = {"image": "image", "embedding": "embedding"}
    config = _config(
        manifest.task,
        manifest.created,
        manifest.base.license,
        {
            "format": ",".join(dict.fromkeys(each.format for each in manifest.variants)),
            "paramSize": str(manifest.compaction.parameters),
            "precision": ",".join(precisions),
            **({"quantization": "int8"} if any(each.startswith("int8") for each in precisions) else {}),
            "capabilities": {
                "inputTypes": ["image" if manifest.preprocessing is not None else "other"],
                "outputTypes": [answers.get(manifest.learns, "other")],
            },
        },
    )
    return _artifact(contents, config)


def task_artifact(
    name: str, task: Path, facts: Mapping[str, Any], base: bytes | None = None, license: str | None = None
) -> Artifact:
    """The artifact of a task file, and of the weights of its base, which all tasks on it have in common.

    Args:
        name: Of the file, with its suffix.
        task: The file.
        facts: ``created``, ``parameters`` and ``image`` (whether its input is one) of its header.
        base: The file of its base's tensors, see `edgespa.exporting.recipe.base_file`; None to leave it out.
        license: Of the base's weights.
    """
    contents = [Content(name, WEIGHT, task)]
    if base is not None:
        contents.append(Content(base_name(base), WEIGHT, base))
    config = _config(
        name.removesuffix(TASK_SUFFIX),
        facts["created"],
        license,
        {
            "format": "safetensors",
            "paramSize": str(facts["parameters"]),
            "capabilities": {"inputTypes": ["image" if facts["image"] else "other"], "outputTypes": ["other"]},
        },
    )
    return _artifact(contents, config)


def base_name(content: bytes) -> str:
    """What the file of a base's tensors is called: the same base has the same name everywhere."""
    return f"{BASE_PREFIX}{hashlib.sha256(content).hexdigest()[:12]}{BASE_SUFFIX}"


def is_base(path: str) -> bool:
    """Whether a file beside a task file is one of its base's tensors."""
    return path.startswith(BASE_PREFIX) and path.endswith(BASE_SUFFIX) and "/" not in path


def _kind(path: str, weights: Iterable[str]) -> str:
    if path in weights:
        return WEIGHT
    if path.lower().endswith((".md", ".txt")) and "label" not in path.lower():
        return DOCUMENT
    if path.startswith("selfcheck."):
        return DATASET
    return {RUNNER: CODE}.get(path, WEIGHT_CONFIG)


def _config(name: str, created: str, license: str | None, technical: Mapping[str, Any]) -> dict[str, Any]:
    descriptor: dict[str, Any] = {"name": name, "title": name}
    if datetime.fromisoformat(created).tzinfo is not None:  # RFC 3339 has no time without a zone
        descriptor["createdAt"] = created
    if license is not None:
        descriptor["licenses"] = [license]
    return {"descriptor": descriptor, "config": dict(technical)}


def _artifact(contents: Sequence[Content], config: Mapping[str, Any]) -> Artifact:
    layers = tuple(each.layer() for each in contents)
    whole = {**config, "modelfs": {"type": "layers", "diffIds": [each.digest for each in layers]}}
    head = Content("", CONFIG, to_json(whole))
    described = head.layer()
    annotations = {TITLE: config["descriptor"]["name"]}
    if "createdAt" in config["descriptor"]:
        annotations["org.opencontainers.image.created"] = config["descriptor"]["createdAt"]
    if "licenses" in config["descriptor"]:
        annotations["org.opencontainers.image.licenses"] = config["descriptor"]["licenses"][0]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT,
        "config": _descriptor(described),
        "layers": [_descriptor(each) for each in layers],
        "annotations": annotations,
    }
    blobs = {each.digest: content for each, content in zip(layers, contents, strict=True)}
    return Artifact(to_json(manifest), described, {**blobs, described.digest: head}, layers)


def _descriptor(layer: Layer) -> dict[str, Any]:
    names = {"annotations": {FILEPATH: layer.path, TITLE: layer.path}} if layer.path else {}
    return {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size_bytes, **names}


def to_json(value: object) -> bytes:
    """The one form in which documents are written: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class _Described(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    mediaType: str = Field(max_length=255)  # as the specification has it
    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    size: int = Field(ge=0, le=MAX_BYTES)
    annotations: dict[str, str] = Field(default_factory=dict)


class _Written(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    schemaVersion: Literal[2]
    artifactType: str | None = None
    config: _Described
    layers: list[_Described] = Field(max_length=MAX_FILES + 2)


def read_artifact(content: bytes, where: str) -> dict[str, Layer]:
    """The layers of a manifest, by their paths; nothing else is looked at.

    Args:
        content: Of the manifest.
        where: It lies, for messages.

    Raises:
        RegistryError: It is no manifest of a ModelPack artifact with a file per layer, or a path leads elsewhere.
    """
    try:
        if len(content) > MAX_MANIFEST_BYTES:
            raise ValueError(f"it is larger than {MAX_MANIFEST_BYTES >> 20} MiB")
        values = json.loads(content.decode("utf-8"), parse_int=whole_number)
        if not isinstance(values, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{where}: its manifest cannot be read: {error}", _OTHER_TOOL) from error
    if "manifests" in values or "fsLayers" in values:
        raise RegistryError(f"{where} is an index or an image for containers, not a model", _OTHER_TOOL)
    try:
        found = _Written.model_validate(values)
    except ValidationError as error:
        raise RegistryError(f"{where}: its manifest cannot be read: {first_problem(error)}", _OTHER_TOOL) from error
    if found.artifactType != ARTIFACT and found.config.mediaType != CONFIG:
        what = shown(found.artifactType or found.config.mediaType, 100)
        raise RegistryError(f"{where} is {what}, not a model ({ARTIFACT})", _OTHER_TOOL)
    layers: dict[str, Layer] = {}
    for each in found.layers:
        path = each.annotations.get(FILEPATH)
        if path is None or not each.mediaType.startswith(_LAYERS) or not each.mediaType.endswith(".raw"):
            raise RegistryError(
                f"{where}: a layer is {shown(each.mediaType, 100)}, not a file as it is with {FILEPATH}", _OTHER_TOOL
            )
        if problem := path_problem(path):
            raise RegistryError(f"{where}: a layer would be written to {shown(path)}, which {problem}", _OTHER_TOOL)
        if path in layers:
            raise RegistryError(f"{where}: two layers are {shown(path)}", _OTHER_TOOL)
        layers[path] = Layer(path, each.mediaType, each.digest.removeprefix("sha256:"), each.size)
    return layers


def is_bundle(paths: Iterable[str]) -> bool:
    """Whether files are those of a bundle."""
    return MANIFEST in paths


def same_as(manifest: Manifest, layers: Mapping[str, Layer], where: str) -> None:
    """Refuse an artifact whose layers are not the files that the manifest of the bundle names.

    Raises:
        RegistryError: One is missing, not named, or of another size or digest.
    """
    named = {entry.path for entry in manifest.files} | {MANIFEST, SIGNATURE}
    if extra := sorted(set(layers) - named):
        raise RegistryError(f"{where}: {extra[0]} is not in the bundle's manifest", "do not use it: push it again")
    for entry in manifest.files:
        layer = layers.get(entry.path)
        if layer is None:
            raise RegistryError(f"{where}: {entry.path} is missing", "push the bundle again")
        if (layer.sha256, layer.size_bytes) != (entry.sha256, entry.size_bytes):
            raise RegistryError(
                f"{where}: {entry.path} is another file than the bundle's manifest names",
                "do not use it: somebody changed it, or it was not written by `edgespa push`",
            )
