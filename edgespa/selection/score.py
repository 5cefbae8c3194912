"""Scores of all units of a program, from its weights and, where the criterion asks for them, gradients on data."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from edgespa.data.inputs import Inputs, arguments
from edgespa.distributed.processes import ALONE, Processes
from edgespa.errors import AdapterError, ConfigError
from edgespa.graph.groups import Group, Groups, Mask, Slot
from edgespa.graph.program import Program
from edgespa.selection.criteria import Criterion, Scores, combined, criterion_named, normalise, slots_of, unit_scores
from edgespa.selection.relevance import Objective, captured

Batches = Iterable[tuple[Inputs, Any]]
Loss = Callable[[Mapping[str, Tensor], Inputs, Any], Tensor]
OutputLoss = Callable[[Any, Any], Tensor]
Mass = Callable[[Any], float]


def score_units(
    groups: Groups,
    kept: Mapping[str, Mask],
    weights: Mapping[str, Tensor],
    criterion: str,
    normalisation: str,
    generator: torch.Generator,
    *,
    program: Program | None = None,
    loss: Loss | None = None,
    output_loss: OutputLoss | None = None,
    batches: Batches = (),
    processes: Processes = ALONE,
    joined: int = 1,
    mass: Mass | None = None,
) -> dict[str, Scores]:
    """Score every unit that is still there.

    With gradients the scores are taken per batch and averaged: ``mean_b |sum w * dL_b/dw|``. Several processes take
    turns at the batches; the scores are those of one process, and the same in all.

    The Jacobian criterion (Chen et al. 2025, arXiv 2508.05521, Optimal Brain Connection) is
    ``mean_b (sum w * dL_b/dw)^2`` over all parameters of the unit: rows that write it, columns that read it, biases,
    scale and shift of norms. Deviations: their published code squares the sum of each layer of a unit and averages
    over layers, here the sum runs over the layers, too, before it is squared; they divide by the number of parameters
    or by the mean, here ``normalisation`` decides; means over batches stand for sums, which changes no order. What a
    batch is matters here: batches that are joined are one, exactly, but for objectives that are learned from the base,
    whose signs are drawn for each place in a batch (`edgespa.objectives.base.projected`).

    Args:
        groups: Channel groups of the whole program.
        kept: Units that are there; the weights are sliced to them.
        weights: Tensors of the compacted program by name, adapters included.
        criterion: A name in `criterion_names`.
        normalisation: See `edgespa.selection.criteria.normalise`.
        generator: For the random criterion.
        program: The compacted program, for criteria that look at activations or at scales of batch norms.
        loss: ``(weights, inputs, labels) -> scalar``, for criteria that need gradients by weights.
        output_loss: ``(outputs, labels) -> scalar``, for those that need gradients by activations; where the criterion
            is relevance, what it begins with.
        batches: Inputs and labels; of several processes, those of this one.
        processes: Those that share the batches.
        joined: So many batches that follow each other are one, for criteria that square; others take each for itself.
        mass: How much the loss of a batch counts among those that are joined; None where all count alike.

    Returns:
        Per group ``[units]``; units that are gone are NaN.

    Raises:
        ConfigError: If the criterion is unknown, or needs a program, a loss or batches that are not given.
        AdapterError: If a score is not finite; it names the group.
    """
    rule = criterion_named(criterion)
    alive = groups.alive(kept)
    if rule.name == "random":
        return _random(groups, kept, generator)
    if rule.side in ("activations", "scales", "parameters") and program is None:
        raise ConfigError(f"the criterion {criterion} needs the program, not the weights alone", "choose another")
    look = _Look(groups, alive, rule, _chosen(rule, program))
    if rule.needs_gradient and (loss if rule.side != "activations" else output_loss) is None:
        raise ConfigError(f"the criterion {criterion} needs labelled data", "choose another, or use: edgespa adapt")
    if rule.side == "activations" and program is not None and output_loss is not None:
        per_batch = _by_activations(look, program, weights, output_loss, batches)
        scores = _averaged(per_batch, kept, rule, normalisation, processes)
    elif rule.needs_gradient and loss is not None:
        together = _together(batches, joined if rule.squared else 1, mass)
        scores = _averaged(_by_gradients(look, weights, loss, together), kept, rule, normalisation, processes)
    else:
        scores = _agreed(look.scores(weights, {}, normalisation), processes)
    require_finite({name: values[kept[name]] for name, values in scores.items()}, criterion)
    return scores


def require_finite(scores: Mapping[str, Scores], criterion: str) -> None:
    """Refuse scores that no units can be chosen by.

    Args:
        scores: By group, of the units that are there.
        criterion: What they were scored by.

    Raises:
        AdapterError: It names the group, the criterion, and how many are not finite.
    """
    for name, values in scores.items():
        wrong = int((~np.isfinite(values)).sum())
        if wrong:
            raise AdapterError(
                f"group {name}: its {criterion} scores are not finite ({wrong} of {len(values)} units)",
                "check the weights of the model and what it makes of the images (--mean, --std), or train with a lower "
                "learning rate (--lr)",
            )


def scales_of(program: Program) -> frozenset[str]:
    """Weights of batch norms: what scales each channel."""
    return frozenset(
        str(scale.target)
        for node in program.graph.nodes
        if node.target is torch.ops.aten.batch_norm.default
        and isinstance(scale := node.args[1], fx.Node)
        and scale.op == "get_attr"
    )


def parameters_of(program: Program) -> frozenset[str]:
    """What could be trained: no statistics of norms, and no constants."""
    return frozenset(name for name, tensor in program.tensors() if isinstance(tensor, nn.Parameter))


def _chosen(rule: Criterion, program: Program | None) -> frozenset[str]:
    """The tensors of `slots_of`."""
    if program is None or rule.side not in ("scales", "parameters"):
        return frozenset()
    return scales_of(program) if rule.side == "scales" else parameters_of(program)


def _together(batches: Batches, joined: int, mass: Mass | None) -> Iterator[list[tuple[Inputs, Any, float]]]:
    """Groups of batches that are one, each with its share of the whole."""
    rest = iter(batches)
    while group := list(itertools.islice(rest, joined)):
        masses = [1.0 if mass is None or len(group) == 1 else mass(labels) for _, labels in group]
        whole = sum(masses)
        shares = [each / whole if whole else 0.0 for each in masses]
        yield [(inputs, labels, share) for (inputs, labels), share in zip(group, shares, strict=True)]


def _averaged(
    per_batch: Iterable[dict[str, Scores]],
    kept: Mapping[str, Mask],
    rule: Criterion,
    normalisation: str,
    processes: Processes,
) -> dict[str, Scores]:
    """Mean over the batches of all processes, normalised in the end."""
    total = {name: np.where(there, 0.0, np.nan) for name, there in kept.items()}
    count = 0
    for scores in per_batch:
        for name, values in scores.items():
            total[name] = total[name] + (np.square(values) if rule.squared else values)
        count += 1
    (batches,) = processes.totals([count])
    if not batches:
        raise ConfigError(f"the criterion {rule.name} needs at least one batch of data", "give more images")
    result = {}
    for name, values in total.items():
        there = ~np.isnan(values)
        mean = processes.total(torch.from_numpy(values)).numpy() / batches
        mean[there] = normalise(mean[there], normalisation)
        result[name] = mean
    return _agreed(result, processes)


def _agreed(scores: dict[str, Scores], processes: Processes) -> dict[str, Scores]:
    """The main process's, so that all select the same."""
    return {name: processes.from_main(torch.from_numpy(values)).numpy() for name, values in scores.items()}


def _by_gradients(
    look: _Look, weights: Mapping[str, Tensor], loss: Loss, together: Iterable[list[tuple[Inputs, Any, float]]]
) -> Iterator[dict[str, Scores]]:
    groups = look.groups.groups.values()
    read = {slot.tensor for group in groups for slot in slots_of(group, look.rule, look.chosen)}
    for parts in together:
        known: dict[str, Tensor] = {}
        for inputs, labels, share in parts:
            leaves = {name: weights[name].detach().clone().requires_grad_(True) for name in read}
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
                loss({**weights, **leaves}, inputs, labels), list(leaves.values()), allow_unused=True
            )
            for name, gradient in zip(leaves, gradients, strict=True):
                if gradient is not None:
                    own = gradient if len(parts) == 1 else gradient * share
                    known[name] = known[name] + own if name in known else own
        yield look.scores(weights, known, "none")


def _by_activations(
    look: _Look, program: Program, weights: Mapping[str, Tensor], loss: OutputLoss, batches: Batches
) -> Iterator[dict[str, Scores]]:
    places = look.written_by(program)
    wanted = {node for nodes in places.values() for node in nodes}
    for inputs, labels in batches:
        found = captured(program.module, weights, inputs, wanted, _bound(loss, labels), relevance=look.rule.relevance)
        result = {}
        for name, group in look.groups.groups.items():
            own = [look.at_node(group, node, dim, *found[node]) for node, dim in places[name].items() if node in found]
            result[name] = combined(own, len(group), False, "none")
            if not own:
                result[name][look.gone(group)] = np.nan
        yield result


def _bound(loss: OutputLoss, labels: Any) -> Objective:
    return lambda outputs: loss(outputs, labels)


@dataclasses.dataclass(frozen=True)
class _Look:
    """What a criterion sees of the groups of a compacted program."""

    groups: Groups
    alive: Mask
    rule: Criterion
    chosen: frozenset[str]

    def gone(self, group: Group) -> Mask:
        return np.asarray(~self.alive[group.ids], dtype=bool)

    def scores(
        self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], normalisation: str
    ) -> dict[str, Scores]:
        """Unit scores from the slots of weights."""
        cache: dict[Slot, Scores] = {}

        def index_scores(slot: Slot) -> Scores:
            if slot not in cache:
                values = self.rule.score(weights[slot.tensor], gradients.get(slot.tensor), slot.dim)
                cache[slot] = self._spread(self.groups.units[slot], values)
            return cache[slot]

        result = {}
        for name, group in self.groups.groups.items():
            own = {slot: index_scores(slot) for slot in slots_of(group, self.rule, self.chosen)}
            result[name] = unit_scores(group, own, self.rule, normalisation, self.chosen)
        return result

    def written_by(self, program: Program) -> dict[str, dict[str, int]]:
        """Per group the layers whose outputs are its channels, with the channel dimension."""
        by_tensor: dict[str, list[fx.Node]] = {}
        for node in program.graph.nodes:
            if node.op == "get_attr":
                by_tensor.setdefault(str(node.target), []).extend(node.users)
        found: dict[str, dict[str, int]] = {}
        for name, group in self.groups.groups.items():
            found[name] = {}
            nodes = {user.name for slot in group.writers for user in by_tensor.get(slot.tensor, ())}
            for node in sorted(nodes):
                for dim, ids in (self.groups.axes.get(node) or [{}])[0].items():
                    if np.isin(group.ids, ids).all():
                        found[name][node] = dim
        return found

    def at_node(self, group: Group, node: str, dim: int, value: Tensor, gradient: Tensor | None) -> Scores:
        """Absolute score of each unit at the outputs of one layer."""
        ids = self.groups.axes[node][0][dim]
        values = self._spread(ids, self.rule.score(value, gradient, dim))
        order = np.argsort(ids, kind="stable")
        first = np.searchsorted(ids[order], group.ids)
        last = np.searchsorted(ids[order], group.ids, side="right")
        return np.array([abs(values[order[a:b]].sum()) for a, b in zip(first, last, strict=True)], dtype=np.float64)

    def _spread(self, ids: NDArray[np.int64], values: Tensor) -> Scores:
        """Scores of the indices that are there at their places among all of them; NaN where gone."""
        whole = np.full(len(ids), np.nan)
        whole[self.alive[ids]] = values.detach().cpu().numpy()
        return whole


def _random(groups: Groups, kept: Mapping[str, Mask], generator: torch.Generator) -> dict[str, Scores]:
    result = {}
    for name, group in groups.groups.items():
        values = torch.rand(len(group), generator=generator, dtype=torch.float64).numpy()
        result[name] = np.where(kept[name], values, np.nan)
    return result


def loss_of(call: Callable[..., Tensor], loss: OutputLoss) -> Loss:
    """The loss of a program that is called with its weights.

    Args:
        call: ``(weights, *inputs) -> outputs``.
        loss: ``(outputs, labels) -> scalar``.
    """

    def whole(weights: Mapping[str, Tensor], inputs: Inputs, labels: Any) -> Tensor:
        return loss(call(weights, *arguments(inputs)), labels)

    return whole
