"""One row of the zoo's table: what can be removed from a network, what not and why, and the error of removing it."""

from __future__ import annotations

import multiprocessing
import re
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgespa.graph.cost import CostModel
from edgespa.graph.groups import FixedSlot, Groups, Kept, Slot, find_groups, weight_outputs
from edgespa.graph.head_widths import HeadWidths, narrowed
from edgespa.graph.layers import find_layers
from edgespa.graph.program import Program, fetch
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact
from edgespa.graph.trace import trace


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights of unit gain, and norms and biases far from their initial values, so that every channel counts."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1 << 22, generator=generator)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or tensor.numel() == 0:
                continue
            if name.endswith("running_var") or (tensor.dim() == 1 and "bias" not in name and "mean" not in name):
                tensor.copy_(0.5 + _drawn(noise, tensor).abs())
            elif tensor.dim() > 1 and isinstance(tensor, nn.Parameter):
                tensor.copy_(_drawn(noise, tensor) * tensor[0].numel() ** -0.5)
            elif tensor.dim() == 1:
                tensor.copy_(0.3 * _drawn(noise, tensor))


def _drawn(noise: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Elements of a long random vector from a random start, repeated for very large tensors: drawing all takes long."""
    count = like.numel()
    start = int(torch.randint(0, len(noise) // 2, (1,)))
    part = noise[start : start + count]
    if len(part) < count:
        part = part.repeat(-(-count // len(part)))[:count]
    return part.reshape(like.shape)


def random_kept(groups: Groups, seed: int, density: float = 0.5) -> Kept:
    """A random part of every group, at least one unit of each."""
    generator = np.random.default_rng(seed)
    kept = {}
    for name, group in groups.groups.items():
        mask = generator.random(len(group)) < density
        mask[generator.integers(len(group))] = True
        kept[name] = mask
    return kept


def measure(network: Any, seeds: int = 3) -> dict[str, Any]:
    """Trace, label, and remove random halves.

    Args:
        network: A `networks.Network`, whose model is taken.
        seeds: Selections of units and inputs.

    Returns:
        Seconds of each step, units, shares and reasons, and the largest error over the seeds.
    """
    torch.manual_seed(0)
    model = network.take()
    randomise(model)
    start = time.perf_counter()
    program = trace(model, network.inputs)
    traced = time.perf_counter()
    del model
    groups = find_groups(program)
    labelled = time.perf_counter()
    costs = CostModel(program, groups)
    whole = costs.cost()
    floor = costs.cost({name: np.arange(len(group)) == 0 for name, group in groups.groups.items()})
    row: dict[str, Any] = {
        "trace_s": traced - start,
        "label_s": labelled - traced,
        "parameters": whole.parameters,
        "macs": whole.macs,
        "groups": len(groups.groups),
        "units": sum(len(group) for group in groups.groups.values()),
        "parameter_share": 1 - floor.parameters / max(whole.parameters, 1),
        "mac_share": 1 - floor.macs / max(whole.macs, 1),
        "dynamic_batch": program.dynamic_batch,
        **channels(program, groups),
        "reasons": reasons(groups),
    }
    error, rounding, nodes, seconds = 0.0, 0.0, 0, []
    for seed in range(seeds):
        kept = random_kept(groups, seed)
        begin = time.perf_counter()
        small = compact(program, groups, kept)
        seconds.append(time.perf_counter() - begin)
        proof = prove(program, groups, kept, small, program.example_inputs(2, seed))
        error, nodes = max(error, proof.worst), proof.nodes
        rounding = max(rounding, proof.rounding or proof.worst)
        if CostModel(small, find_groups(small)).cost() != costs.cost(kept):
            row["cost"] = "differs"
    return {
        **row,
        "compact_s": float(np.median(seconds)),
        "error": error,
        "error_float32": rounding,
        "activations": nodes,
        "seeds": seeds,
    }


def measure_heads(network: Any, seed: int = 0) -> dict[str, Any]:
    """Trace, and make heads of attention narrower, at random: are costs and layers foretold of what comes out?

    Args:
        network: A `networks.Network`, whose model is taken.
        seed: Of the new widths.

    Returns:
        How many widths can shrink, the relative error of each cost, and how many layers are not as wide as foretold.
    """
    torch.manual_seed(0)
    program = trace(network.take(), network.inputs)
    groups = find_groups(program)
    heads = HeadWidths.of(program, groups)
    row: dict[str, Any] = {"widths": len(heads.widths)}
    if not heads.widths:
        return row
    random = np.random.default_rng(seed)
    sizes = {name: int(random.integers(1, size)) for name, size in heads.sizes.items()}
    small = narrowed(program, {each.group: sizes[name] for name, each in heads.widths.items()})
    own, by_widths = CostModel(program, groups), CostModel(program, heads.groups)
    real = CostModel(small, find_groups(small)).cost()
    counts = {name: len(group) for name, group in groups.groups.items()} | sizes
    for quantity in ("macs", "parameters"):
        parts = heads.parts(own.parts(quantity), by_widths.parts(quantity))
        told = sum(float(part.over({name: counts[name] for name in part.groups})) for part in parts)
        row[quantity] = abs(told - getattr(real, quantity)) / getattr(real, quantity)
    layers = heads.layers(find_layers(program, groups), find_layers(program, heads.groups))
    told_widths = [tuple(dim.count(None, sizes) for dim in each.dims) for each in layers.layers]
    real_widths = [tuple(dim.count() for dim in each.dims) for each in find_layers(small, find_groups(small)).layers]
    pairs = zip(told_widths, real_widths, strict=True)
    return {**row, "layers": len(real_widths), "layers_off": sum(one != other for one, other in pairs)}


def apart(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row from a process of its own, forked from this one: torch keeps much of what it has traced for ever.

    Returns:
        The row with ``total_s`` and ``peak_mib``, the process's peak memory; or ``failure``, what went wrong.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, theirs))
    with warnings.catch_warnings():  # of other threads, from Python 3.12 on: those of a test runner, which only wait
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    try:
        row: dict[str, Any] = ours.recv()
    except EOFError:
        process.join()
        row = {"failure": f"the process died ({process.exitcode}; -9 is what a lack of memory looks like)"}
    process.join()
    return row


def _child(work: Callable[[], dict[str, Any]], pipe: Connection) -> None:
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    began = time.perf_counter()
    try:
        row = work()
    except Exception as error:
        row = {"failure": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:400]}
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    pipe.send({"total_s": time.perf_counter() - began, "peak_mib": int(status["VmHWM"].split()[0]) / 1024, **row})


def channels(program: Program, groups: Groups) -> dict[str, Any]:
    """Output channels of all weights, the classifier's aside: how many, how many can go, and why the others cannot."""
    total = removable = 0
    fixed: Counter[str] = Counter()
    why: dict[Slot, list[FixedSlot]] = defaultdict(list)
    for entry in groups.fixed:
        why[entry.slot].append(entry)
    for tensor, dim in weight_outputs(program).items():
        slot = Slot(tensor, dim)
        if any(entry.reason.startswith("output of the network") for entry in why[slot]):
            continue
        total += fetch(program.module, tensor).shape[dim]
        removable += int((groups.units[slot] > 0).sum()) if slot in groups.units else 0
        for entry in why[slot]:
            fixed[root(entry.reason)] += len(entry.indices)
    return {"channels": total, "removable_channels": removable, "fixed_channels": dict(fixed.most_common())}


def root(reason: str) -> str:
    """The reason behind a reason: why the tensor that something is tied to cannot shrink, without the node's name."""
    reason = re.sub(r" \(at [^)]*\)$", "", reason)
    inner = re.search(r"cannot shrink(?: there)? \((.*)\)$", reason)
    return inner[1] if inner else reason


def reasons(groups: Groups) -> dict[str, int]:
    """Fixed slots by root cause; kernel extents aside, which are no channels."""
    count = Counter(root(fixed.reason) for fixed in groups.fixed)
    count.pop("kernel extent", None)
    return dict(count.most_common())
