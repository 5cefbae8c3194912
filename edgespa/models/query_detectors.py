"""Detectors of transformers that answer for a fixed number of queries: DETR and what came of it.

They are traced as they are (`edgespa.models.huggingface.Answers`), with ``logits`` [N, queries, classes] and
``pred_boxes`` [N, queries, 4], the middle and the sides as fractions of the input. What is told here is what those
mean, and which loss they have. transformers is not imported: a model of it has done so.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import nn

from edgespa.bundle.decoding import Columns, Decoding
from edgespa.errors import ModelError
from edgespa.models.detectors import Detector
from edgespa.models.huggingface import Answers

_SOFTMAX = frozenset({"YolosForObjectDetection", "DetrForObjectDetection", "TableTransformerForObjectDetection"})
"""Each query is of one class, or of none, which is the last; they have the loss of DETR."""
_SIGMOID = frozenset(
    {f"{name}ForObjectDetection" for name in ("ConditionalDetr", "DeformableDetr", "RTDetr", "RTDetrV2", "DFine")}
)
"""Each class of each query is yes or no; their losses are of more than their answers."""
_LEAST = 0.01
_CLASSES, _PLACES = "class_labels_classifier", "bbox_predictor"
_COSTS = ("class_cost", "bbox_cost", "giou_cost", "eos_coefficient", "bbox_loss_coefficient", "giou_loss_coefficient")


@dataclasses.dataclass(frozen=True)
class QueryDetector:
    """A detector of transformers.

    Attributes:
        network: What is traced: the model, with its answers alone.
    """

    network: Answers
    recorded: None = None

    @property
    def model(self) -> Any:
        """The model itself."""
        return self.network.core

    def detector(self, height: int, width: int) -> Detector:
        """What there is to know of it, for inputs of a size.

        Args:
            height: In pixels.
            width: Likewise.
        """
        softmax = type(self.model).__name__ in _SOFTMAX
        with torch.no_grad():
            found = self.network(torch.zeros(1, 3, height, width, dtype=next(self.model.parameters()).dtype))
        queries, columns = found["logits"].shape[1:]
        config = self.model.config
        return Detector(
            "detr" if softmax else "queries",
            int(columns) - softmax,
            Decoding(
                size=(height, width),
                scores=Columns(output=0),
                activation="softmax" if softmax else "sigmoid",
                background="last" if softmax else None,
                boxes=Columns(output=1),
                coding="centres",
                unit="input",
                clip=False,
                threshold=_LEAST,
                candidates=int(queries),
                only_best=softmax,
                overlap=None,
                most=int(queries),
            ),
            costs=tuple((name, float(getattr(config, name))) for name in _COSTS if hasattr(config, name)),
            head=tuple(self._head()),
        )

    def with_classes(self, count: int, seed: int = 0) -> QueryDetector:
        """The same with a fresh layer for the scores of classes.

        Args:
            count: Classes, without the one that says that there is nothing.
            seed: Of the fresh weights.

        Raises:
            ModelError: Its head has no such layer.
        """
        network = copy.deepcopy(self.network)
        owner, name, old = _last_linear(network.core, _CLASSES)
        if old is None or type(self.model).__name__ not in _SOFTMAX:
            raise ModelError(
                f"the head of a {type(self.model).__name__} gets no other classes here",
                "build it for the classes of the data",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = nn.Linear(old.in_features, count + 1, old.bias is not None, dtype=old.weight.dtype)
        setattr(owner, name, fresh)
        return QueryDetector(network.eval())

    def _head(self) -> list[str]:
        own = [_last_linear(self.model, name)[2] for name in (_CLASSES, _PLACES)]
        written = {id(tensor) for layer in own if layer is not None for tensor in layer.parameters()}
        return [name for name, tensor in self.network.named_parameters() if id(tensor) in written]


def query_detector(model: nn.Module) -> QueryDetector | None:
    """A detector of transformers, or None for any other model.

    Args:
        model: As it was built, or as it comes from a function of the user's, in evaluation form.
    """
    core = model.core if isinstance(model, Answers) else model
    if type(core).__module__.split(".")[0] != "transformers" or type(core).__name__ not in _SOFTMAX | _SIGMOID:
        return None
    return QueryDetector(model if isinstance(model, Answers) else Answers(core).eval())


def _last_linear(model: Any, name: str) -> tuple[Any, str, nn.Linear | None]:
    """The linear layer that writes a head's output, what holds it, and under which name."""
    part = getattr(model, name, None)
    if isinstance(part, nn.Linear):
        return model, name, part
    layers = getattr(part, "layers", None)
    if isinstance(layers, nn.ModuleList) and len(layers) and isinstance(layers[-1], nn.Linear):
        return layers, str(len(layers) - 1), layers[-1]
    return None, "", None
