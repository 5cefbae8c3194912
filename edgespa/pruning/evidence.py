"""What calibration images say about one reader: second moments of its inputs, and what it should give."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from edgespa.errors import DataError
from edgespa.graph.groups import Group, Mask
from edgespa.pruning.readers import Reader
from edgespa.selection.reconstruct import Moments, Problem, residual, reweight, shrinkage


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """The least-squares problem of one part of a reader; see `edgespa.selection.reconstruct`.

    Where rows are few, it is that of moments which are shrunk; see `shrunk`.

    Attributes:
        gram: ``[n + constant, n + constant]``.
        cross: ``[n + constant, o]``.
        energy: ``||Y||^2`` per output, ``[o]``.
        rows: Number of rows that it comes from.
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor
    rows: int


def full_matrices(reader: Reader, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """``W`` of every part with the bias as the row of the constant column, where the reader has one."""
    matrices = reader.matrices(weight)
    if bias is None:
        return matrices
    width = matrices[0].shape[1]
    rows = bias.detach().to(torch.float64).expand(width * reader.parts).reshape(reader.parts, 1, width)
    return [torch.cat([matrix, row]) for matrix, row in zip(matrices, rows, strict=True)]


def of_own_output(gram: Tensor, matrix: Tensor, rows: int) -> Evidence:
    """The targets are what the reader's old weights make of the same inputs."""
    cross = gram @ matrix
    return Evidence(gram, cross, (matrix * cross).sum(0), rows)


def shrunk(evidence: Evidence, matrix: Tensor, *, constant: bool) -> Evidence:
    """Evidence in which few rows do not pass for all images; the same object if they are enough.

    ``lambda ||W - W'||^2`` with the old weights ``W`` is added to the problem: new ones stay near them where rows say
    little.

    Args:
        evidence: As it was gathered; its ``gram``, which may be large, is changed in place.
        matrix: The reader's old weights, from `full_matrices`.
        constant: Whether the last column is that of ones.
    """
    ridge = shrinkage(evidence.gram, evidence.rows, constant=constant)
    if not ridge:
        return evidence
    free = len(matrix) - constant
    old = matrix * ridge
    old[free:] = 0
    evidence.gram.diagonal()[:free].add_(ridge)
    return Evidence(evidence.gram, evidence.cross + old, evidence.energy + (matrix * old).sum(0), evidence.rows)


class Collector:
    """Gathers the moments of one reader over batches.

    Args:
        reader: The reader.
        matrices: Its old weights, from `full_matrices`, to make targets with.
        asymmetric: Whether the targets come from other inputs than the rows.
        shrink: Whether few rows are shrunk.
        alive: With ``asymmetric``: the unit ids that matter. What is asked for the others costs most of the time where
            many are gone; the evidence is zero there.
    """

    def __init__(
        self,
        reader: Reader,
        matrices: Sequence[Tensor],
        *,
        asymmetric: bool = False,
        shrink: bool = True,
        alive: Mask | None = None,
    ) -> None:
        self._asymmetric = asymmetric
        self._shrink = shrink
        inputs, outputs = reader.there(alive) if alive is not None else (None, None)
        # B^T Y = (B^T A) W: the original inputs are the cheaper partners where there are fewer of them than outputs.
        self._by_inputs = asymmetric and len(reader.columns[0]) < len(reader.outputs[0] if outputs is None else outputs)
        if self._by_inputs:
            inputs = outputs = None  # all original inputs make an output
        self._inputs, self._outputs = inputs, outputs
        self._reader = reader.narrowed(inputs, outputs)
        self._columns = reader.columns_of(inputs) if inputs is not None else None
        self._full = (len(reader.columns[0]), len(reader.outputs[0]))
        self._matrices = [self._narrowed(matrix) for matrix in matrices]
        columns, targets = len(self._reader.columns[0]), len(self._reader.outputs[0])
        partners = (columns if self._by_inputs else targets) if asymmetric else 0
        self._moments = [Moments(columns, partners, constant=reader.bias is not None) for _ in range(reader.parts)]
        self._energy = [torch.zeros(targets, dtype=torch.float64) for _ in matrices]

    def add(self, x: Tensor, original: Tensor | None = None, output: Tensor | None = None) -> None:
        """Take in a batch.

        Args:
            x: The reader's input in the network as it is now.
            original: Its input in the original network; with ``asymmetric``.
            output: Its output there.
        """
        axis = 1 if self._reader.window is not None else -1
        if self._inputs is not None:
            x = x.index_select(axis, self._inputs)
        if self._outputs is not None and output is not None:
            output = output.index_select(axis, self._outputs)
        if self._reader.slides and not self._by_inputs:
            self._add_sliding(x, output)
            return
        if not self._asymmetric:
            for parts in self._reader.rows(x):
                for moments, rows in zip(self._moments, parts, strict=True):
                    moments.add(rows)
            return
        assert original is not None
        assert output is not None
        targets = self._reader.targets(output)
        self._add_energy(targets)
        start = 0
        sources = self._reader.rows(original) if self._by_inputs else None
        for parts in self._reader.rows(x):
            width = parts[0].shape[1]
            mates = next(sources) if sources is not None else [own[:, start : start + width] for own in targets]
            start += width
            for index, rows in enumerate(parts):
                self._moments[index].add(rows, mates[index])

    def _add_sliding(self, x: Tensor, output: Tensor | None) -> None:
        for parts in self._reader.slabs(x, output if self._asymmetric else None):
            for moments, (slab, mate) in zip(self._moments, parts, strict=True):
                moments.add_sliding(slab, self._reader.slides, mate)
        if self._asymmetric and output is not None:
            self._add_energy(self._reader.targets(output))

    def _add_energy(self, targets: Sequence[Tensor]) -> None:
        for energy, own in zip(self._energy, targets, strict=True):
            energy += own.to(torch.float64).square().sum(1)

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self._moments[0].rows

    def result(self) -> list[Evidence]:
        """The evidence for every part.

        Raises:
            DataError: If an activation is not finite; it names the layer.
        """
        found = [self._part(index) for index in range(len(self._moments))]
        if self._shrink:
            constant = self._reader.bias is not None
            found = [shrunk(own, matrix, constant=constant) for own, matrix in zip(found, self._matrices, strict=True)]
        return [self._widened(own) for own in found]

    def _narrowed(self, matrix: Tensor) -> Tensor:
        """The part of a full matrix that evidence is gathered for; the constant row is one of it."""
        if self._columns is not None:
            constant = torch.arange(self._full[0], len(matrix))
            matrix = matrix[torch.cat([self._columns, constant])]
        return matrix if self._outputs is None else matrix[:, self._outputs]

    def _widened(self, own: Evidence) -> Evidence:
        """Evidence for all columns and outputs, zero where none was gathered."""
        if self._inputs is None and self._outputs is None:
            return own
        columns, outputs = self._full
        constant = self._reader.bias is not None
        rows = self._columns if self._columns is not None else torch.arange(columns)
        rows = torch.cat([rows, torch.arange(columns, columns + constant)])
        places = self._outputs if self._outputs is not None else torch.arange(outputs)
        gram = own.gram.new_zeros(columns + constant, columns + constant)
        gram[rows.unsqueeze(1), rows] = own.gram
        cross = own.cross.new_zeros(columns + constant, outputs)
        cross[rows.unsqueeze(1), places] = own.cross
        energy = own.energy.new_zeros(outputs)
        energy[places] = own.energy
        return Evidence(gram, cross, energy, own.rows)

    def _part(self, index: int) -> Evidence:
        moments, matrix = self._moments[index], self._matrices[index]
        gram = moments.gram()
        if not torch.isfinite(gram).all():
            raise DataError(
                f"{self._reader.layer}: its inputs on the calibration images are not finite",
                "check the weights, and --mean and --std",
            )
        if not self._asymmetric:
            return of_own_output(gram, matrix, moments.rows)
        cross = moments.cross()
        if self._by_inputs:
            columns = len(self._reader.columns[0])
            cross = cross @ matrix[:columns]
            if self._reader.bias is not None:
                cross += gram[:, -1:] * matrix[columns]
        return Evidence(gram, cross, self._energy[index], moments.rows)


def problems(reader: Reader, evidence: Sequence[Evidence], group: Group, alive: Mask) -> list[Problem]:
    """A group's units as seen by a reader: one problem per part that reads them.

    Columns of other groups' units, and those that cannot go, are always there; units that are gone already are no
    part of it, neither as inputs nor as outputs.
    """
    found = []
    for part, own in enumerate(evidence):
        table = reader.units_table(part, group.ids)
        if table is None:
            continue
        columns = reader.columns[part]
        others = np.flatnonzero(~np.isin(columns, group.ids) & alive[columns])
        always = np.concatenate([others, np.arange(len(columns), len(own.gram))])
        outputs = torch.from_numpy(np.flatnonzero(alive[reader.outputs[part]]))
        found.append(
            Problem(
                own.gram,
                own.cross[:, outputs],
                float(own.energy[outputs].sum()),
                table,
                torch.from_numpy(always).long(),
            )
        )
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Solved:
    """A reader's new weights.

    Attributes:
        weight: In the shape of the whole weight, zero where units are gone.
        bias: Per output; None if the reader has none.
        error: ``||Y - B W||^2 / ||Y||^2`` over outputs that are there, per column mean taken off if there is a bias.
    """

    weight: Tensor
    bias: Tensor | None
    error: float

    def tensors(self, reader: Reader, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a network that change: the weight, and the bias.

        Args:
            reader: The reader.
            state: The tensors as they are.
        """
        changed = {reader.weight: self.weight}
        if self.bias is not None and reader.bias is not None:
            changed[reader.bias] = self.bias.to(state[reader.bias].dtype)
        return changed


def solve(
    reader: Reader, evidence: Sequence[Evidence], alive: Mask, outputs: Mask, weight: Tensor, bias: Tensor | None
) -> Solved:
    """The optimal weights of a reader on the columns that are there; what the images leave open stays as it was.

    Args:
        reader: The reader.
        evidence: Per part.
        alive: Which unit ids are there among its inputs.
        outputs: Which are there among its outputs; the others get zeros.
        weight: Its old weight.
        bias: Its old bias, if it has one.
    """
    matrices = []
    old = full_matrices(reader, weight, bias)
    for columns, own_outputs, own, prior in zip(reader.columns, reader.outputs, evidence, old, strict=True):
        kept = np.concatenate([np.flatnonzero(alive[columns]), np.arange(len(columns), len(own.gram))])
        matrix = reweight(own.gram, own.cross, torch.from_numpy(kept).long(), prior)
        matrix[:, torch.from_numpy(np.flatnonzero(~outputs[own_outputs]))] = 0
        matrices.append(matrix)
    return _solved(reader, evidence, outputs, matrices, weight)


def cut(reader: Reader, evidence: Sequence[Evidence], alive: Mask, weight: Tensor, bias: Tensor | None) -> Solved:
    """A reader's old weights without the columns that are gone."""
    matrices = [matrix.clone() for matrix in full_matrices(reader, weight, bias)]
    for columns, matrix in zip(reader.columns, matrices, strict=True):
        matrix[torch.from_numpy(np.flatnonzero(~alive[columns]))] = 0
    return _solved(reader, evidence, alive, matrices, weight)


def _solved(
    reader: Reader, evidence: Sequence[Evidence], outputs: Mask, matrices: Sequence[Tensor], like: Tensor
) -> Solved:
    left = whole = 0.0
    for own_outputs, own, matrix in zip(reader.outputs, evidence, matrices, strict=True):
        there = torch.from_numpy(np.flatnonzero(outputs[own_outputs]))
        energy = float(own.energy[there].sum())
        left += residual(own.gram, own.cross[:, there], energy, matrix[:, there])
        if reader.bias is not None:  # what the constant alone explains is not the reader's merit
            energy -= float(own.cross[-1, there].square().sum()) / max(float(own.gram[-1, -1]), 1.0)
        whole += energy
    inputs = len(reader.columns[0])
    bias = torch.cat([matrix[-1] for matrix in matrices]) if reader.bias is not None else None
    weight = reader.tensor([matrix[:inputs] for matrix in matrices], like)
    return Solved(weight, bias, left / whole if whole > 0 else 0.0)
