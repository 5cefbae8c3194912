"""Narrower heads of attention, from calibration images: what heads see, new weights, and a base that is narrower.

The maths is in `edgespa.selection.heads`, what a head is in `edgespa.graph.heads`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from edgespa.errors import ConfigError, DataError
from edgespa.graph.groups import Groups
from edgespa.graph.head_widths import Width, find_widths, kept_of, products, with_scales
from edgespa.graph.heads import Attention, Side, find_attentions
from edgespa.graph.program import Program
from edgespa.graph.proof import prove
from edgespa.graph.surgery import slice_tensors
from edgespa.pruning.images import Images
from edgespa.selection.heads import outputs, query_key, tails, value_output
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

PROOF_IMAGES = 4
Tick = Callable[[str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Products:
    """The products of one attention over the calibration images.

    Attributes:
        queries: Second moments of each head, ``[heads, d, d]``, float64; None where the product stays as it is.
        keys: Likewise, row by row to those of the queries.
        attended: Likewise, of what each head attended to.
    """

    queries: Tensor | None = None
    keys: Tensor | None = None
    attended: Tensor | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Heads:
    """The attention of a network, and what calibration images say of it.

    Attributes:
        program: The network, whose attention says its scale.
        groups: Its channel groups by widths.
        attentions: What there is.
        widths: Which widths can shrink.
        whole: Per product that stays as it is the reason: ``(attention's node, "query-key" or "value-output")``.
        seen: Per attention what was seen.
    """

    program: Program
    groups: Groups
    attentions: tuple[Attention, ...]
    widths: tuple[Width, ...]
    whole: Mapping[tuple[str, str], str]
    seen: Mapping[str, Products]

    @classmethod
    def of(cls, base: Base, images: Images, tick: Tick = lambda _: None) -> Heads:
        """Look at a network, and run it over the images once.

        Args:
            base: The network.
            images: Calibration images.
            tick: Told what is done.

        Raises:
            ConfigError: If the network has no attention whose heads could be narrower.
            DataError: If a moment is not finite.
        """
        program = with_scales(base.program)
        attentions = find_attentions(program)
        groups, widths, whole = find_widths(program, attentions)
        if not widths:
            known = {attention.node: attention.name for attention in attentions}
            why = "; ".join(f"{known[node]}, {what}: {reason}" for (node, what), reason in list(whole.items())[:4])
            raise ConfigError(
                f"{base.spec} has no heads that could be narrower: {why or 'no attention was found'}",
                "leave out --head-width",
            )
        return cls(program, groups, attentions, widths, whole, _look(program, attentions, images, tick))

    def errors(self, width: Width) -> Tensor:
        """Relative error of the products that share a width, at every width at once: ``[size + 1]``, 0 to the size.

        Args:
            width: One of `widths`.
        """
        found = [tails(self._values(attention, what)) for attention, what in products(self.attentions, width)]
        return torch.stack(found).square().mean(0).sqrt()

    def product_errors(self, width: Width) -> dict[str, Tensor]:
        """The same for each of the products: ``query-key`` and ``value-output``."""
        return {what: tails(self._values(attention, what)) for attention, what in products(self.attentions, width)}

    def _values(self, attention: Attention, what: str) -> Tensor:
        factored = _factor(attention, what, self.seen[attention.node], self.program.state())
        return torch.stack([values for values, _ in factored])

    def state(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """New weights in full width: the first dimensions of each head are those that it keeps.

        Args:
            sizes: New width by group.
        """
        state = self.program.state()
        changed: dict[str, Tensor] = {}
        for width in self.widths:
            if width.group in sizes:
                for attention, what in products(self.attentions, width):
                    current = {**state, **changed}
                    changed.update(_new(attention, what, self.seen[attention.node], current, sizes[width.group]))
        return changed

    def masked(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """The same with nothing in the other dimensions: what a network of that width computes.

        Args:
            sizes: New width by group.
        """
        changed = self.state(sizes)
        for width in self.widths:
            if width.group in sizes:
                for attention, what in products(self.attentions, width):
                    side = attention.query if what == "query-key" else attention.value
                    assert side is not None
                    gone = torch.from_numpy(side.rows[:, sizes[width.group] :].reshape(-1))
                    for name in (side.weight, side.bias):
                        if name is not None:
                            changed[name][gone] = 0
        return changed

    def sizes(self, asked: float, round_to: int) -> dict[str, int]:
        """New widths by group, of those that become narrower.

        Args:
            asked: See `size_of`.
            round_to: Likewise.

        Raises:
            ConfigError: All are as narrow already.
        """
        sizes = {width.group: size_of(asked, width.size, round_to) for width in self.widths}
        narrower = {width.group: sizes[width.group] for width in self.widths if sizes[width.group] < width.size}
        if not narrower:
            raise ConfigError(
                f"the heads are {max(width.size for width in self.widths)} wide, which is not wider than what is asked "
                "for",
                "give a smaller --head-width, or leave it out",
            )
        return narrower


def _look(program: Program, attentions: tuple[Attention, ...], images: Images, tick: Tick) -> dict[str, Products]:
    watch = _Watch(program, attentions)
    for index in range(images.batches):
        watch.run(*images.batch(index))
        tick("heads")
    found = {}
    for attention in attentions:
        sums = {key: watch.sums.get((attention.node, key)) for key in ("queries", "keys", "attended")}
        for total in sums.values():
            if total is not None and not bool(torch.isfinite(total).all()):
                raise DataError(
                    f"{attention.name}: what its heads hold on the calibration images is not finite",
                    "check the weights, and --mean and --std",
                )
        found[attention.node] = Products(**sums)
    return found


class _Watch(fx.Interpreter):
    """Adds up, per head, the second moments of queries, keys and attended values."""

    def __init__(self, program: Program, attentions: tuple[Attention, ...]) -> None:
        super().__init__(program.module)
        self.sums: dict[tuple[str, str], Tensor] = {}
        self._heads: dict[str, int] = {}
        self._wanted: dict[str, list[tuple[tuple[str, str], Side | None]]] = {}
        for attention in attentions:
            for key, side in (("queries", attention.query), ("keys", attention.key)):
                if side is not None:
                    self._wanted.setdefault(side.node, []).append(((attention.node, key), side))
            if attention.value is not None:
                self._wanted.setdefault(attention.node, []).append(((attention.node, "attended"), None))
                self._heads[attention.node] = len(attention.value.rows)

    @torch.no_grad()
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for key, side in self._wanted.get(n.name, ()):
            if side is None:
                rows = result.reshape(-1, self._heads[n.name], *result.shape[-2:]).transpose(1, 2).flatten(0, 1)
            else:
                rows = result.flatten(0, -2)[:, torch.from_numpy(side.rows)]
            rows = rows.double()
            total = torch.einsum("thd,the->hde", rows, rows)
            self.sums[key] = self.sums[key] + total if key in self.sums else total
        return result


def _shared(side: Side) -> list[list[int]]:
    """Heads by what they share: those with the same rows are one list."""
    found: dict[tuple[int, ...], list[int]] = {}
    for index, rows in enumerate(side.rows.tolist()):
        found.setdefault(tuple(rows), []).append(index)
    return list(found.values())


def _factor(
    attention: Attention, what: str, seen: Products, state: Mapping[str, Tensor]
) -> list[tuple[Tensor, tuple[list[int], Any]]]:
    """Singular values of each part of a product, with its heads and what they are multiplied by."""
    found: list[tuple[Tensor, tuple[list[int], Any]]] = []
    if what == "query-key":
        assert attention.key is not None
        assert seen.queries is not None
        assert seen.keys is not None
        for heads in _shared(attention.key):
            values, queries, key = query_key(seen.queries[heads], seen.keys[heads[0]])
            found.append((values, (heads, (queries, key))))
    else:
        assert attention.value is not None
        assert seen.attended is not None
        for heads in _shared(attention.value):
            values, matrix = value_output(seen.attended[heads], _columns(attention, heads, state))
            found.append((values, (heads, matrix)))
    return found


def _columns(attention: Attention, heads: list[int], state: Mapping[str, Tensor]) -> Tensor:
    assert attention.output is not None
    weight = state[attention.output.weight].double()
    return torch.stack([weight[:, torch.from_numpy(attention.output.rows[head])] for head in heads])


def _new(attention: Attention, what: str, seen: Products, state: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """The tensors of a product with new values."""
    changed: dict[str, Tensor] = {}

    def multiplied(side: Side, head: int, matrix: Tensor) -> None:
        rows = torch.from_numpy(side.rows[head])
        for name in (side.weight, side.bias):
            if name is not None:
                tensor = changed.setdefault(name, state[name].clone())
                tensor[rows] = (matrix @ state[name][rows].double()).to(tensor.dtype)

    for _, (heads, how) in _factor(attention, what, seen, state):
        if what == "query-key":
            queries, key = how
            assert attention.query is not None
            assert attention.key is not None
            for index, head in enumerate(heads):
                multiplied(attention.query, head, queries[index])
            multiplied(attention.key, heads[0], key)
            continue
        assert attention.value is not None
        assert attention.output is not None
        assert seen.attended is not None
        multiplied(attention.value, heads[0], how)
        columns = outputs(seen.attended[heads], _columns(attention, heads, state), how[:size])
        weight = changed.setdefault(attention.output.weight, state[attention.output.weight].clone())
        for index, head in enumerate(heads):
            places = torch.from_numpy(attention.output.rows[head])
            weight[:, places] = 0
            weight[:, places[:size]] = columns[index].to(weight.dtype)
    return changed


@dataclasses.dataclass(frozen=True, eq=False)
class Narrowing:
    """A base with narrower heads.

    Attributes:
        base: The base, narrower, with new weights.
        tensors: Those that are new, as wide as the base.
        account: Of each attention the widths and errors, and why a product stayed as it is.
        proof: Largest difference of the narrower network from the masked one.
    """

    base: Base
    tensors: Mapping[str, Tensor]
    account: Mapping[str, Any]
    proof: float

    def recorded(self, task: Task) -> Task:
        """A task on the narrower base, with what it takes to find it again from the base itself.

        Args:
            task: Made by pruning `base`.
        """
        removed = task.header.depth.removed if task.header.depth is not None else ()
        base = self.base.without_blocks(removed)
        left = {name for name, _ in base.program.tensors()} - set(task.tensors)
        own = {name: tensor for name, tensor in self.tensors.items() if name in left}
        own.update(slice_tensors(own, base.groups, base.groups.alive(task.kept)))
        header = task.header
        stored = header.figures.stored_parameters + sum(tensor.numel() for tensor in own.values())
        metrics = header.metrics
        error = max(self.proof, metrics.get("masked_compacted_error", 0.0))
        return dataclasses.replace(
            task,
            tensors={**own, **task.tensors},
            header=header.model_copy(
                update={
                    "figures": header.figures.model_copy(update={"stored_parameters": stored}),
                    "metrics": {**metrics, "masked_compacted_error": error},
                    "provenance": {**header.provenance, "heads": dict(self.account)},
                }
            ),
        )


def step_of(width: int, round_to: int) -> int:
    """What new widths are multiples of: as asked, or a quarter of the width where that is less."""
    return max(1, min(round_to, width // 4))


def size_of(asked: float, width: int, round_to: int) -> int:
    """A new width.

    Args:
        asked: A number of dimensions, or a share of those that there are if not above 1.
        width: Those that there are.
        round_to: Shares are rounded to multiples of `step_of`.
    """
    if asked > 1:
        return min(width, int(asked))
    step = step_of(width, round_to)
    return min(width, max(step, round(asked * width / step) * step))


def narrow_heads(base: Base, images: Images, heads: Heads, sizes: Mapping[str, int]) -> Narrowing:
    """Make heads narrower.

    Args:
        base: The network.
        images: Calibration images.
        heads: Its heads.
        sizes: New widths by group.

    Raises:
        GraphError: If the narrower network does not equal the masked one.
    """
    changed = heads.state(sizes)
    whole = heads.program.with_state(changed)
    narrow = base.narrowed(sizes)
    kept = kept_of(heads.groups, sizes)
    tensors = {**changed, **slice_tensors(changed, heads.groups, heads.groups.alive(kept))}
    result = narrow.with_state(tensors)
    proof = prove(whole, heads.groups, kept, result.program, images.first(PROOF_IMAGES))
    proof.require()
    return Narrowing(result, tensors, _account(heads, sizes), max(proof.output_error, proof.inner_error))


def _account(heads: Heads, sizes: Mapping[str, int]) -> dict[str, Any]:
    names = {attention.node: attention.name for attention in heads.attentions}
    found: dict[str, Any] = {}
    for width in heads.widths:
        size = sizes.get(width.group, width.size)
        for attention, what in products(heads.attentions, width):
            error = float(tails(heads._values(attention, what))[size])
            own = {"width": size, "of": width.size, "error": float(f"{error:.6g}")}
            found.setdefault(attention.name, {})[what] = own
    for (node, what), why in heads.whole.items():
        found.setdefault(names[node], {})[what] = {"whole": why}
    return found
