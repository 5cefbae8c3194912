"""The bundle: the folder that is shipped to a device, its manifest and its digests.

A bundle is whole or not there: `BundleWriter` builds it in a hidden folder beside its target and renames that.
``manifest.json`` names every other file with its size and SHA-256; only itself, its signature and ``profiles/``
(written after the fact, by `edgespa.device.measure.profile`) stand outside. `open_bundle` takes a folder or a
packed file.
"""

from edgespa.bundle.archive import pack, unpack
from edgespa.bundle.figures import MAX_FP32_ERROR, MAX_ROUNDING, Agreement, Metric, Parity, Proof, Quality
from edgespa.bundle.files import read_manifest, sha256_file, verify_files
from edgespa.bundle.manifest import SCHEMA_VERSION, Base, Compaction, FileEntry, Kind, Manifest, OutputSet, Pick, Size
from edgespa.bundle.opened import Approval, OpenBundle, open_bundle
from edgespa.bundle.paths import LABELS, MANIFEST, PROFILES, RUNNER, SELFCHECK, SIGNATURE
from edgespa.bundle.signature import Signed, Signer, sign_bundle
from edgespa.bundle.variant import INT8_STEPS, TensorSpec, Variant, Weights
from edgespa.bundle.writer import BundleWriter, picked

__all__ = [
    "INT8_STEPS",
    "LABELS",
    "MANIFEST",
    "MAX_FP32_ERROR",
    "MAX_ROUNDING",
    "PROFILES",
    "RUNNER",
    "SCHEMA_VERSION",
    "SELFCHECK",
    "SIGNATURE",
    "Agreement",
    "Approval",
    "Base",
    "BundleWriter",
    "Compaction",
    "FileEntry",
    "Kind",
    "Manifest",
    "Metric",
    "OpenBundle",
    "OutputSet",
    "Parity",
    "Pick",
    "Proof",
    "Quality",
    "Signed",
    "Signer",
    "Size",
    "TensorSpec",
    "Variant",
    "Weights",
    "open_bundle",
    "pack",
    "picked",
    "read_manifest",
    "sha256_file",
    "sign_bundle",
    "unpack",
    "verify_files",
]
