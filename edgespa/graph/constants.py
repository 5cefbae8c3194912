"""What in a program does not depend on its inputs, and its values.

Numbers that are read off tensors (``.item()``) are folded when a program is made: operators then have plain arguments
and known sizes. Everything else is folded for converters alone (`folded`), for it may be computed from weights that are
pruned and trained.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from edgespa.errors import TraceError
from edgespa.graph.functional import is_view
from edgespa.graph.operators import NUMBERS, writes_nothing
from edgespa.graph.program import Program, assign, drop_unread, fetch, refresh, shape_of
from edgespa.graph.rules.registry import named_arguments, operator_name

log = logging.getLogger(__name__)

MOST_ELEMENTS = 1 << 20
"""Of a folded tensor, unless what it is computed from is larger: an expanded number is not made a table."""
MOST_COMPUTED = 1 << 31
"""Of any tensor of a program: no network for a small device comes near."""
_GROW = {
    "expand", "expand_as", "repeat", "tile", "broadcast_to", "repeat_interleave", "full", "zeros", "ones", "new_full",
    "new_zeros", "new_ones", "zeros_like", "ones_like", "full_like",
}  # fmt: skip
_CHECKS = {
    "_assert_tensor_metadata",
    "_assert_scalar",
    "_assert_async",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
}


class Constants:
    """The nodes of a graph that have one value each, whatever the inputs.

    Args:
        module: The graph.
        parameters: Whether parameters are taken to be constant, too.
    """

    def __init__(self, module: fx.GraphModule, *, parameters: bool) -> None:
        self._module = module
        self._parameters = parameters
        self._values: dict[fx.Node, Any] = {}
        self.nodes: set[fx.Node] = set()
        for node in module.graph.nodes:
            if self._is_constant(node):
                self.nodes.add(node)

    def _is_constant(self, node: fx.Node) -> bool:
        if node.op == "get_attr":
            value = fetch(self._module, str(node.target))
            return isinstance(value, Tensor) and (self._parameters or not isinstance(value, torch.nn.Parameter))
        return node.op == "call_function" and is_pure(node) and all(each in self.nodes for each in node.all_input_nodes)

    @torch.no_grad()
    def value(self, node: fx.Node) -> Any:
        """The value of a constant node."""
        for each in cone(node):
            if each in self._values:
                continue
            if each.op == "get_attr":
                self._values[each] = fetch(self._module, str(each.target)).detach()
            else:
                arguments, keywords = fx.node.map_arg((each.args, each.kwargs), self._values.__getitem__)
                _require_bounded(each, arguments, keywords)
                self._values[each] = each.target(*arguments, **keywords)  # type: ignore[operator]
        return self._values[node]


def _require_bounded(node: fx.Node, arguments: Any, keywords: Any) -> None:
    """Refuse what would fill the memory: a few words of a program can ask for any number of elements.

    Raises:
        TraceError: With the operator and the number.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    mode = FakeTensorMode()
    try:
        with mode:
            found = node.target(
                *tree_map_only(Tensor, mode.from_tensor, arguments), **tree_map_only(Tensor, mode.from_tensor, keywords)
            )
    except Exception:  # sizes that follow from values, which are no more than there are; or it fails in earnest, too
        return
    require_sizes(node, found)


def require_sizes(node: fx.Node, found: Any) -> None:
    """Refuse a result of more than `MOST_COMPUTED` elements.

    Args:
        node: What computes it.
        found: The result, or its shapes.

    Raises:
        TraceError: With the operator and the number.
    """
    # A size that follows from values is None: `edgespa.graph.trace` refuses it.
    sizes = [math.prod(size or 0 for size in shape_of(each)) for each in tree_leaves(found) if isinstance(each, Tensor)]
    if max(sizes, default=0) > MOST_COMPUTED:
        raise TraceError(
            f"{node.name} ({operator_name(node)}) would compute a tensor of {max(sizes):,} elements",
            "give a program whose tensors fit into memory",
        )


def cone(node: fx.Node) -> list[fx.Node]:
    """The nodes that a node is computed from, itself included, each after its sources."""
    done: dict[fx.Node, None] = {}
    waiting = [node]
    while waiting:
        item = waiting[-1]
        missing = [source for source in item.all_input_nodes if source not in done]
        if missing:
            waiting += missing
        else:
            done[waiting.pop()] = None
    return list(done)


def is_pure(node: fx.Node) -> bool:
    """Whether a node gives the same for the same arguments, and does nothing else: it may be run when a file is opened.

    See `edgespa.graph.operators` for what is known to do nothing else.
    """
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return target in NUMBERS
    name = operator_name(node)
    if "empty" in name or name in _CHECKS or torch.Tag.nondeterministic_seeded in target.tags:
        # what is random while training only is told apart by its flag
        return name.endswith("dropout") and writes_nothing(target, named_arguments(node))
    return writes_nothing(target, named_arguments(node))


def fold_numbers(module: fx.GraphModule) -> None:
    """Put numbers that are read off buffers and constants in the place of the nodes that read them, in place.

    Args:
        module: The graph; sizes that follow from the numbers are known afterwards.
    """
    graph = module.graph
    if not any(operator_name(node) in {"item", "_local_scalar_dense"} for node in graph.nodes):
        return
    constants = Constants(module, parameters=False)
    values = {}
    for node in graph.nodes:
        if node in constants.nodes and not isinstance(node.meta.get("val"), Tensor | list | tuple):
            values[node] = constants.value(node)
    if not values:
        return
    _put(values)
    graph.eliminate_dead_code()
    refresh(module)
    # Sizes that followed from them are known now, and what was to be checked of them is.
    known = {node: node.meta["val"] for node in graph.nodes if isinstance(node.meta.get("val"), bool | int | float)}
    _put({node: value for node, value in known.items() if node.op == "call_function"})
    for node in reversed(list(graph.nodes)):
        if operator_name(node) in _CHECKS and not node.all_input_nodes:
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _put(values: Mapping[fx.Node, Any]) -> None:
    """Put values in the place of nodes."""
    for user in {user: None for node in values for user in node.users}:
        user.args, user.kwargs = fx.node.map_arg((user.args, user.kwargs), lambda each: values.get(each, each))


def folded(program: Program) -> Program:
    """A program in which what does not depend on the inputs is computed already, for converters.

    Left are: plain weights and views of them; random operators, and such that write; what only repeats a tensor or a
    number; and results of more than `MOST_ELEMENTS` that are larger than what they are computed from.

    Args:
        program: In evaluation form; not changed.
    """
    result = program.copy()
    module, graph = result.module, result.module.graph
    constants = Constants(module, parameters=True)
    wanted: dict[fx.Node, None] = {}
    for node in list(graph.nodes):
        if operator_name(node) in _CHECKS and all(each in constants.nodes for each in node.all_input_nodes):
            graph.erase_node(node)
        elif node not in constants.nodes:
            sources = [each for each in node.all_input_nodes if each in constants.nodes]
            if node.op == "output":  # converters want an output to be computed by something
                sources = [each for source in sources for each in source.all_input_nodes]
            for source in sources:
                _want(source, wanted)
    taken = {name for name, _ in result.tensors()}
    for index, node in enumerate(wanted):
        try:
            value = constants.value(node)
        except (RuntimeError, NotImplementedError) as error:  # an operator that is not there for half precision
            log.debug("%s is not folded: %s", node.name, error)
            continue
        if isinstance(value, Tensor):
            name = _free(f"folded_{index}", taken)
            assign(module, name, value.detach().clone().contiguous())
            with graph.inserting_before(node):
                plain = graph.get_attr(name)
            plain.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(plain, delete_user_cb=lambda user: user.op != "output")
        elif isinstance(value, bool | int | float):
            _put({node: value})
    graph.eliminate_dead_code()
    drop_unread(module)
    module.recompile()
    if wanted:
        log.debug("%d results that no input changes are folded", len(wanted))
    return result


def _want(node: fx.Node, wanted: dict[fx.Node, None]) -> None:
    if _is_plain(node):
        return
    if _grows(node):
        for source in node.all_input_nodes:
            _want(source, wanted)
    else:
        wanted[node] = None


def _is_plain(node: fx.Node) -> bool:
    """Whether it is a tensor of the program, or a view of one."""
    return node.op == "get_attr" or (is_view(node) and all(map(_is_plain, node.all_input_nodes)))


def _grows(node: fx.Node) -> bool:
    if operator_name(node) in _GROW:
        return True
    leaves = (each for each in cone(node) if each.op == "get_attr")
    size = _elements([node])
    return size > MOST_ELEMENTS and size > _elements(leaves)


def _elements(nodes: Iterable[fx.Node]) -> int:
    values = [node.meta.get("val") for node in nodes]
    return sum(math.prod(map(int, value.shape)) for value in values if isinstance(value, Tensor))


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
