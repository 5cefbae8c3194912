"""The bundle: the folder that is shipped to a device, its manifest and its digests.

A bundle is whole or not there: `BundleWriter` builds it in a hidden folder beside its target and renames that.
``manifest.json`` names every other file with its size and SHA-256; only itself, its signature and ``profiles/``
(written after the fact, by `edgespa.device.profile`) stand outside.
"""

from edgespa.bundle.files import read_manifest, sha256_file, verify_files
from edgespa.bundle.manifest import (
    LABELS,
    MANIFEST,
    PROFILES,
    RUNNER,
    SCHEMA_VERSION,
    SELFCHECK,
    SIGNATURE,
    Accuracy,
    Base,
    Compaction,
    FileEntry,
    Manifest,
    Metric,
    Parity,
    TensorSpec,
    Variant,
)
from edgespa.bundle.writer import BundleWriter

__all__ = [
    "LABELS",
    "MANIFEST",
    "PROFILES",
    "RUNNER",
    "SCHEMA_VERSION",
    "SELFCHECK",
    "SIGNATURE",
    "Accuracy",
    "Base",
    "BundleWriter",
    "Compaction",
    "FileEntry",
    "Manifest",
    "Metric",
    "Parity",
    "TensorSpec",
    "Variant",
    "read_manifest",
    "sha256_file",
    "verify_files",
]
