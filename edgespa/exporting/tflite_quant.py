"""Smaller TFLite files from the fp32 one, by ai-edge-quantizer.

Only layers with weights are quantised: what XNNPACK computes faster in int8. On ViT-tiny, int8 for all that can be took
1.7 times as long as float, for its layers alone 0.45 times.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.exporting.corrections import Correction
from edgespa.exporting.refusals import refused
from edgespa.exporting.tflite_file import in_order
from edgespa.exporting.tflite_graph import LAYERS, Operator, read
from edgespa.exporting.tflite_layers import as_corrected, put_in, with_layers
from edgespa.exporting.tflite_scales import widened, with_room
from edgespa.exporting.tflite_signature import keep_signature
from edgespa.exporting.tflite_terms import store_terms
from edgespa.quantisation.fitness import Part, unfit
from edgespa.quantisation.ranges import Observed, Range, find_ranges
from edgespa.quantisation.sensitivity import by_weights
from edgespa.system.quiet import quiet

NOTHING: Mapping[str, Correction] = MappingProxyType({})
_HALF_LAYERS = (*LAYERS, "CONV_2D_TRANSPOSE")


class TfliteQuantiser:
    """An fp32 file, ready to be quantised in several ways.

    Args:
        source: The file.

    Attributes:
        unfit: Layers and other operators that stay in float whatever is asked for, with the reasons; known when they
            have been observed.
        rest_ways: What can be done to the weights of layers that stay in float, the smallest first.
        stores_terms: Whether constants that are no layer's weights can be stored smaller.
        whole: Whether no layer can stay in float.
    """

    whole = False
    rest_ways = ("stored", "half")
    stores_terms = True
    weight_ways = ("dynamic", "stored")

    def __init__(self, source: Path) -> None:
        with quiet("ai-edge-quantizer"):
            layers, joins = read(source)
        self._source = source
        self._operators = {each.name: each for each in layers}
        self._between = {each.name: each for each in joins}
        self.unfit: dict[str, str] = {}

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Of `layers`, a row for each output channel."""
        return {name: weight for name in self.layers if (weight := self._operators[name].weight) is not None}

    def around(self, layer: str) -> tuple[str, str]:
        """Names of what a layer reads, and of what it gives behind its activation function.

        Args:
            layer: One of `layers`.
        """
        return self._operators[layer].inputs[0], self._operators[layer].outputs[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can be quantised, in order."""
        return tuple(name for name in self._operators if name not in self.unfit)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Names of the layers that are unfit."""
        return tuple(name for name in self._operators if name in self.unfit)

    @property
    def alike(self) -> tuple[tuple[str, ...], ...]:
        """`layers` that have the same weights, together: the steps of a recurrence that is written out are one."""
        return by_weights({name: self._operators[name].weight for name in self.layers})

    @property
    def joins(self) -> tuple[str, ...]:
        """Kinds of operators without weights that are there and may be quantised too."""
        return tuple(sorted({each.kind for each in self._between.values() if each.name not in self.unfit}))

    def observe(self, feeds: Sequence[Sequence[NDArray[Any]]]) -> dict[str, Observed]:
        """Run the fp32 file and see what the activations around its layers hold, and what of it is `unfit`.

        Args:
            feeds: One list of inputs for each run, in the file's layout.
        """
        around = [*self._operators.values(), *self._between.values()]
        wanted = {name for each in around for name in (*each.inputs, *each.outputs, *each.shown)}
        shown = {name for each in around for name in each.shown}
        with quiet("ai-edge-litert"):
            from ai_edge_litert.interpreter import Interpreter, OpResolverType

            interpreter = Interpreter(
                str(self._source),
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
            interpreter.allocate_tensors()
            runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
            names = in_order(runner.get_input_details())
            details = interpreter.get_tensor_details()
            wanted |= self._seen(details)
            details = [
                each
                for each in details
                if each["name"] in wanted and each["dtype"] is np.float32 and each["shape"].all()
            ]
            observed = {str(each["name"]): Observed.of(spread=each["name"] in shown) for each in details}
            for feed in feeds:
                runner(**dict(zip(names, feed, strict=True)))
                for each in details:
                    array = interpreter.get_tensor(each["index"])
                    observed[str(each["name"])].add(array if array.shape[:1] == feed[0].shape[:1] else array[None])
        self.unfit = self._unfit([each.part for each in around], observed)
        return observed

    def _unfit(self, parts: list[Part], observed: dict[str, Observed]) -> dict[str, str]:
        self.unfit = unfit(parts, observed)
        return self.unfit | refused(self, find_ranges(observed, "minmax"), "tflite")

    def _seen(self, details: list[dict[str, Any]]) -> set[str]:
        """Names of activations that are looked at besides."""
        return set()

    def write_static(
        self,
        path: Path,
        ranges: Mapping[str, Range],
        *,
        only: Collection[str] = (),
        without: Collection[str] = (),
        joined: bool = False,
        rest: str | None = None,
        terms: bool = False,
        corrections: Mapping[str, Correction] = NOTHING,
    ) -> None:
        """Static int8: weights per channel, activations per tensor; float32 inputs and outputs.

        Args:
            path: The file to write.
            ranges: Of each activation, from `observe`.
            only: Layers to quantise; empty for all.
            without: Layers that stay in float.
            joined: Quantise `joins` too.
            rest: Weights of layers that stay in float: ``stored`` in int8, see `write_weights`; in ``half`` precision.
            terms: Store large constants that are no layer's weights in int8, see `store_terms`.
            corrections: Weights and biases in place of their own, of those that are quantised.
        """
        rules = _Rules()
        chosen = [name for name in only or self.layers if name not in without and name not in self.unfit]
        for name in chosen:
            rules.static(self._operators[name])
        for each in self._between.values() if joined else ():
            if each.name not in self.unfit:
                rules.static(each)
        if rest is not None:
            for name in (each for each in self._operators if each not in chosen):
                self._shrink(rules, name, rest)
        if not chosen and not rest:
            shutil.copyfile(self._source, path)
            return
        self._write_calibrated(path, rules.recipe(), chosen, ranges, corrections)
        if terms:
            store_terms(path)

    def _write_calibrated(
        self,
        path: Path,
        recipe: Any,
        chosen: Sequence[str],
        ranges: Mapping[str, Range],
        corrections: Mapping[str, Correction],
    ) -> None:
        """By a recipe that makes the chosen layers int8, with their corrections and scales that hold their biases."""
        layers = [as_corrected(self._operators[name], corrections.get(name)) for name in chosen]
        changes = {self._operators[name].scope: put_in(corrections[name]) for name in chosen if name in corrections}
        wide = widened(layers, ranges)
        found = {
            name: {"min": np.array(low, dtype=np.float32), "max": np.array(high, dtype=np.float32)}
            for name, (low, high) in wide.items()
        }
        source = with_layers(self._source.read_bytes(), changes)
        self._write(path, recipe, found, with_room(source, layers, wide))

    def write_weights(self, path: Path, way: str) -> None:
        """Weights in int8; activations stay in float.

        Only what tflite-runtime 2.14 computes as newer runtimes do: it takes a scale per channel for convolutions with
        ranges found as they run, and for nothing else (it gave wrong scores without a word: cosine 0.04 on ResNet-20).
        Fully connected layers have one scale, and half precision where that would lose an output; depthwise
        convolutions, which hold few weights and need a scale per channel, stay in float.

        Args:
            path: The file to write.
            way: ``dynamic``: the arithmetic is int8, with the range of each activation found as it runs; ``stored``: it
                is that of float, with one scale for each weight.
        """
        rules = _Rules()
        for name in self._operators:
            self._shrink(rules, name, way)
        self._write(path, rules.recipe(), None, self._source.read_bytes())

    def write_half(self, path: Path) -> None:
        """Weights in half precision; the arithmetic is that of float, or of half where a delegate has it.

        Args:
            path: The file to write.
        """
        from ai_edge_quantizer import qtyping
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
        from ai_edge_quantizer.recipe_manager import RecipeManager

        rules = RecipeManager()
        for kind in _HALF_LAYERS:
            rules.add_weight_only_config(
                ".*", qtyping.TFLOperationName(kind), num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING
            )
        self._write(path, rules.get_quantization_recipe(), None, self._source.read_bytes())

    def _shrink(self, rules: _Rules, name: str, way: str) -> None:
        """A rule for the weights of one layer: ``dynamic``, ``stored``, or ``half``, as where one scale is too few."""
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
        from ai_edge_quantizer.qtyping import QuantGranularity

        operator = self._operators[name]
        if operator.kind == "DEPTHWISE_CONV_2D" and way != "half":
            return
        channels = way == "dynamic" and operator.kind == "CONV_2D"
        if way == "half" or not (channels or operator.one_scale):
            rules.add("weight_only", operator, num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING)
        else:
            granularity = QuantGranularity.CHANNELWISE if channels else QuantGranularity.TENSORWISE
            how = "dynamic" if way == "dynamic" else "weight_only"
            rules.add(how, operator, num_bits=8, granularity=granularity)

    @staticmethod
    def _write(path: Path, recipe: Any, found: dict[str, Any] | None, source: bytes) -> None:
        with quiet("ai-edge-quantizer"):
            from ai_edge_quantizer import quantizer

            tool = quantizer.Quantizer(source, recipe)
            tool.quantize(found).export_model(str(path), overwrite=True)
        keep_signature(path, source)


class _Rules:
    """Rules for operators; those that are treated alike have one, as every rule is tried on every operator."""

    def __init__(self) -> None:
        self._scopes: dict[tuple[Any, ...], list[str]] = {}

    def static(self, operator: Operator) -> None:
        """Static int8."""
        self.add("static", operator, activation_num_bits=8, weight_num_bits=8)

    def add(self, way: str, operator: Operator, **config: Any) -> None:
        """As ``RecipeManager.add_<way>_config`` is told."""
        self._scopes.setdefault((way, operator.kind, *config.items()), []).append(operator.scope)

    def recipe(self) -> Any:
        from ai_edge_quantizer.qtyping import TFLOperationName
        from ai_edge_quantizer.recipe_manager import RecipeManager

        manager = RecipeManager()
        for (way, kind, *config), scopes in self._scopes.items():
            where = f"^(?:{'|'.join(map(re.escape, scopes))})$"
            getattr(manager, f"add_{way}_config")(where, TFLOperationName(kind), **dict(config))
        return manager.get_quantization_recipe()
