"""Where a base model comes from: its spec, its weights, the digest that tells one base from another.

    load_model("path/file.py:factory")      the user's code
    load_model("torchvision:resnet50")      a library's model, here with its pretrained weights
    load_pt2("program.pt2")                 a saved program

`BaseReference` records a spec so that a task file can find its base again.
"""

from edgespa.models.load import load_model
from edgespa.models.plain import register_outputs
from edgespa.models.recorded import Recorded, recorded
from edgespa.models.reference import BaseReference, portable_spec, resolve_spec
from edgespa.models.saved import is_pt2, load_pt2
from edgespa.models.weights import fit_weights, read_weights, state_digest

__all__ = [
    "BaseReference",
    "Recorded",
    "fit_weights",
    "is_pt2",
    "load_model",
    "load_pt2",
    "portable_spec",
    "read_weights",
    "recorded",
    "register_outputs",
    "resolve_spec",
    "state_digest",
]
