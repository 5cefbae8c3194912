"""From a module, or a saved ``.pt2`` program, to a `Program`."""

from __future__ import annotations

import copy
import inspect
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn.utils import parametrize

from edgespa.errors import TraceError
from edgespa.graph.constants import fold_numbers, require_sizes
from edgespa.graph.fold import fold_weights
from edgespa.graph.functional import make_functional, mutates, plain_batch_norms, plain_products
from edgespa.graph.inline import inline_regions
from edgespa.graph.program import BATCH, InputSpec, Program, drop_unread, refresh, shape_of
from edgespa.system.quiet import first_line, quiet

log = logging.getLogger(__name__)

TRACE_BATCH = 2  # torch.export specialises on sizes 0 and 1


def trace(model: nn.Module, inputs: Sequence[Tensor]) -> Program:
    """Trace a model once, with a free batch size where the model allows it.

    The model is traced in evaluation mode on a copy, so it is not changed; parametrised weights
    (``torch.nn.utils.parametrize``) are computed and stored as plain weights under their own names.

    Args:
        model: Any module that ``torch.export`` takes.
        inputs: Example inputs. The first dimension of each is taken to be the batch; a batch of 1 is traced as 2. Where
            first sizes differ, those of 1 are the batch, else those like the first input's; the other inputs have no
            batch there, nor has one whose first size no output begins with though another's does. Such inputs keep the
            sizes that they have here. Where the model does not take that, inputs of three dimensions but the first
            may be states ``[layers, N, H]``.

    Returns:
        The program. If the model fixes its batch size, so does the program, at the size of ``inputs``.

    Raises:
        TraceError: With the line of the model's code that cannot be traced.
    """
    try:
        plain = _plain(model)
    except Exception as error:
        raise TraceError(f"the model cannot be copied: {error}", "give a factory that builds a fresh model") from error
    given = tuple(inputs)
    firsts = [tensor.shape[0] for tensor in given if tensor.dim()]
    batch = 1 if 1 in firsts else next(iter(firsts), 0)
    batched = {index: 0 for index, tensor in enumerate(given) if tensor.shape[:1] == (batch,)}
    try:
        program = _export(plain, _repeated(given, batched), batched)
        unbatched = _unbatched(program, batched)
        if unbatched:
            batched = {index: 0 for index in batched if index not in unbatched}
            program = _export(plain, _repeated(given, batched), batched)
        if not _are_free(program, batched):
            log.warning("the model takes batches of %d only: its code fixes the size", batch)
            program = _export(plain, given, {})
    except Exception as first:
        states = _with_states(plain, given, batched, batch)
        if states is not None:
            return from_exported(states)
        try:
            program = _export(plain, given, {})
        except Exception as error:
            raise _explain(error) from first
        log.warning("the model takes batches of %d only: %s", batch, _summary(first))
    return from_exported(program)


def _with_states(
    plain: nn.Module, given: tuple[Tensor, ...], batched: Mapping[int, int], batch: int
) -> ExportedProgram | None:
    """The program with the batch second in inputs that may be states ``[layers, N, H]``; None where that fails too."""
    states = {index: 1 for index, each in enumerate(given) if index and each.dim() == 3 and each.shape[1] == batch}
    if not states:
        return None
    axes = {**batched, **states}
    try:
        program = _export(plain, _repeated(given, axes), axes)
    except Exception:  # what a model makes of such sizes; the first failure is the one that is told
        return None
    return program if _are_free(program, axes) else None


def _are_free(program: ExportedProgram, batched: Mapping[int, int]) -> bool:
    nodes = _input_nodes(program)
    sizes = [nodes[index].meta["val"].shape[axis] for index, axis in batched.items()]
    return all(_is_free(size) and _takes_any(size) for size in sizes)


def from_exported(exported: ExportedProgram, *, foreign: bool = False) -> Program:
    """A `Program` made from an exported program, with in-place operators replaced by functional ones.

    Args:
        exported: The program.
        foreign: It comes from a file: the shapes that it claims are computed anew before anything relies on them.

    Raises:
        TraceError: If the program writes to its inputs or buffers, which a pruned program could not promise to do the
            same way, or has sizes that depend on the values of its inputs.
    """
    module = _graph_module(exported)
    inline_regions(module)
    fold_numbers(module)
    if foreign:
        _compute_shapes(module)
    _require_known_sizes(module.graph)
    if mutates(module.graph) and not make_functional(module):
        with quiet("torch.export"):
            exported = exported.run_decompositions({})
        module = _graph_module(exported)
        inline_regions(module)
        fold_numbers(module)
        make_functional(module)
        if mutates(module.graph):
            raise TraceError(
                "the model writes to its inputs or to its buffers when it runs",
                "clone what is written to, or leave the update out of forward in evaluation mode",
            )
    plain_products(module.graph)
    plain_batch_norms(module.graph)
    fold_weights(module)
    module.graph.eliminate_dead_code()
    drop_unread(module)
    module.recompile()
    if any("val" not in node.meta for node in module.graph.nodes if node.op in {"call_function", "get_attr"}):
        refresh(module)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    specs = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            if not isinstance(value, Tensor):
                raise TraceError(f"input {node.name} is not a tensor", "wrap the model so that it takes tensors only")
            shape = tuple(BATCH if _is_free(size) else int(size) for size in value.shape)
            specs.append(InputSpec(node.name, shape, value.dtype))
    return Program(module, tuple(specs))


def _compute_shapes(module: fx.GraphModule) -> None:
    try:
        refresh(module)
    except Exception as error:  # whatever an operator makes of tensors that it was not traced with
        raise TraceError(
            f"its operators do not fit its tensors: {first_line(error)}", "save it again with torch.export.save"
        ) from error
    for node in module.graph.nodes:
        require_sizes(node, node.meta.get("val"))


def _require_known_sizes(graph: fx.Graph) -> None:
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and None in shape_of(value):
            lines = [m for m in _LINE.finditer(node.meta.get("stack_trace") or "") if "/torch/" not in m["file"]]
            raise TraceError(
                f"the size of a tensor depends on the values of the inputs{_where(lines)} ({node.name})",
                "leave selection by masks, .item() and other post-processing out of the model",
            )


_PRIMES = (11, 13, 101)


def _is_free(size: int | torch.SymInt) -> bool:
    """Whether a size may be chosen; one that the model fixes can be symbolic too, with a number for its expression."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def _takes_any(size: torch.SymInt) -> bool:
    """Whether what was assumed of a free size holds for others; a model that folds frames takes multiples of some."""
    (symbol,) = size.node.expr.free_symbols
    assumed = [guard.expr for guard in size.node.shape_env.guards if guard.expr.free_symbols == {symbol}]
    # Primes: nothing divides them, and one alone may be a size that the code compares with by chance.
    return any(all(expression.subs(symbol, prime) != sympy.false for expression in assumed) for prime in _PRIMES)


def _plain(model: nn.Module) -> nn.Module:
    plain = copy.deepcopy(model).eval()
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            _compute_weights(module)
    return plain


def _compute_weights(module: nn.Module) -> None:
    """Put computed weights in the place of parametrised ones.

    ``parametrize.remove_parametrizations`` would take the weight's property off a class that the copy shares with the
    model it was copied from, and so break that model.
    """
    names = list(module.parametrizations)  # type: ignore[arg-type]
    values = {name: getattr(module, name).detach().clone() for name in names}
    del module.parametrizations
    module.__class__ = parametrize.type_before_parametrizations(module)
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _repeated(inputs: tuple[Tensor, ...], batched: Mapping[int, int]) -> tuple[Tensor, ...]:
    return tuple(
        tensor.repeat_interleave(TRACE_BATCH, batched[index])
        if index in batched and tensor.shape[batched[index]] == 1
        else tensor
        for index, tensor in enumerate(inputs)
    )


def _unbatched(program: ExportedProgram, batched: Iterable[int]) -> list[int]:
    """Inputs whose free first size is no batch: no output begins with it, and some output begins with another's."""
    nodes = _input_nodes(program)
    symbols = {index: _symbol(nodes[index].meta["val"]) for index in batched}
    names = set(program.graph_signature.user_outputs)
    firsts = {_symbol(node.meta["val"]) for node in program.graph.nodes if node.name in names} - {""}
    if not firsts & set(symbols.values()):
        return []
    return [index for index, symbol in symbols.items() if symbol and symbol not in firsts and nodes[index].users]


def _symbol(value: Any) -> str:
    """The first size of a tensor as an expression; empty for a fixed one."""
    return str(value.shape[0]) if isinstance(value, Tensor) and value.dim() and _is_free(value.shape[0]) else ""


def _export(model: nn.Module, inputs: tuple[Tensor, ...], batched: Mapping[int, int]) -> ExportedProgram:
    """Export with a free size of some inputs, along the dimension that is said."""
    free = torch.export.Dim.AUTO
    shapes: list[Any] = [{batched[index]: free} if index in batched else None for index in range(len(inputs))]
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:  # forward(x, *rest): the rest is one tuple, if there is any
        first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        if first < len(inputs):
            shapes[first:] = [tuple(shapes[first:])]
    with quiet("torch.export"):
        return torch.export.export(model, inputs, dynamic_shapes=tuple(shapes) if batched else None)


def _input_nodes(exported: ExportedProgram) -> list[fx.Node]:
    names = set(exported.graph_signature.user_inputs)
    return [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]


def _graph_module(exported: ExportedProgram) -> fx.GraphModule:
    with quiet("torch.export"):
        module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return module


_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)(?:\n\s+(?P<code>[^\n]+))?')


def _explain(error: Exception) -> TraceError:
    text = str(error)
    user = [m for m in _LINE.finditer(text) if "/torch/" not in m["file"].replace("\\", "/")]
    if not user:
        user = [
            m
            for frame in _frames(error)
            if (m := _LINE.match(frame))
            and "/torch/" not in m["file"].replace("\\", "/")
            and "edgespa" not in m["file"]
        ]
    return TraceError(
        f"torch.export cannot trace the model{_where(user)}\n  {_summary(error)}",
        "usual causes: Python control flow on tensor values (use torch.where), .item() or .tolist(), "
        "an --input-shape that the model does not take",
    )


def _where(lines: Sequence[re.Match[str]]) -> str:
    """The innermost of some lines of code, in words."""
    if not lines:
        return ""
    last = lines[-1]
    code = f": {last['code'].strip()}" if last["code"] else ""
    return f" at {last['file']}:{last['line']} in {last['function']}{code}"


def _summary(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _frames(error: Exception) -> list[str]:
    import traceback

    return [frame.strip() for frame in traceback.format_tb(error.__traceback__)]
