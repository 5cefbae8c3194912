"""edgespa beside torch-pruning on the same networks: does it run, are the values right, seconds, peak memory.

    make zoo
    PYTHONPATH=.zoo python benchmarks/vs_torch_pruning/run.py [--library NAME ...] [--name TEXT] [--output FOLDER]
    python benchmarks/vs_torch_pruning/run.py --table

Both take half of the channels of every layer, by magnitude, of the same network with the same random weights. Values
are right if the pruned network equals the original one with the removed channels zeroed, to 1e-4 of the largest output.
torch-pruning is asked with its own defaults, the classifier left out; what it removed is read off its groups. Every
network and tool has a process of its own, forked after all imports; the limits are ten minutes and 12 GiB. Seconds are
those of the processor, of one thread, so that other work on the machine does not count.

One row per network and tool in ``FOLDER/rows.jsonl``; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "zoo"), str(HERE.parents[1])]

import measure  # noqa: E402
import networks  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from edgespa.graph.groups import find_groups  # noqa: E402
from edgespa.graph.proof import prove  # noqa: E402
from edgespa.graph.surgery import compact  # noqa: E402
from edgespa.graph.trace import trace  # noqa: E402
from edgespa.selection.score import score_units  # noqa: E402

TOOLS = ("edgespa", "torch-pruning")
LIMIT = 1e-4
TIME_LIMIT_S = 600
MEMORY_LIMIT_GIB = 12
PARAMETER, OPERATION = "a parameter outside of a layer", "an operation"
# The families of the comparison in timm; of torchvision all are taken.
TIMM = (
    "resnet18", "mobilenetv3_small_100", "efficientnet_b0", "regnetx_002", "densenet121", "ghostnet_100",
    "res2net50_26w_4s", "resnest14d", "skresnet18", "convnextv2_atto", "mobilevit_xxs", "levit_128s", "pvt_v2_b0",
    "poolformer_s12", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s16_224",
    "xcit_nano_12_p16_224", "edgenext_xx_small",
)  # fmt: skip


def edgespa(net: networks.Network) -> dict[str, Any]:
    """Trace, label, score, take half of every group, compact; then the proof, which is not in the time."""
    seconds: dict[str, float] = {}
    program = timed(seconds, "trace_s", lambda: trace(net.model, net.inputs))
    groups = timed(seconds, "label_s", lambda: find_groups(program))
    kept = timed(seconds, "choose_s", lambda: halves(program, groups))
    small = timed(seconds, "prune_s", lambda: compact(program, groups, kept))
    peak = peak_mib()
    proof = prove(program, groups, kept, small, program.example_inputs(2))
    parameters = small.parameter_count() / program.parameter_count()
    return {
        **seconds,
        "peak_mib": peak,
        "error": proof.output_error,
        "inner": proof.inner_error,
        "parameters": parameters,
    }


def halves(program: Any, groups: Any) -> dict[str, Any]:
    scores = score_units(
        groups, groups.all_kept(), dict(program.tensors()), "l2", "mean", torch.Generator().manual_seed(0)
    )
    kept = {}
    for name, values in scores.items():
        kept[name] = np.zeros(len(values), dtype=bool)
        kept[name][np.argsort(-values)[: max(1, len(values) // 2)]] = True
    return kept


def torch_pruning(net: networks.Network) -> dict[str, Any]:
    """Build the pruner, prune; then the same network with the channels it took set to zero."""
    import torch_pruning as tp

    original = copy.deepcopy(net.model)
    names = {module: name for name, module in net.model.named_modules()}
    layers = [module for module in net.model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    classifier = [module for module in layers if isinstance(module, nn.Linear)][-1:] or layers[-1:]
    before = sum(parameter.numel() for parameter in net.model.parameters())
    seconds: dict[str, float] = {}
    pruner = timed(
        seconds,
        "label_s",
        lambda: tp.pruner.MagnitudePruner(
            net.model, net.inputs, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5,
            ignored_layers=classifier,
        ),
    )  # fmt: skip
    taken: list[tuple[str, str, list[int]]] = []

    def place(module: Any) -> str:
        return PARAMETER if isinstance(module, Tensor) else names.get(module, OPERATION)

    def prune() -> None:
        for group in pruner.step(interactive=True):
            taken.extend((place(dep.target.module), dep.handler.__name__, list(idxs)) for dep, idxs in group)
            group.prune()

    timed(seconds, "prune_s", prune)
    peak = peak_mib()
    after = sum(parameter.numel() for parameter in net.model.parameters())
    inputs = tuple(
        torch.randn(2, *tensor.shape[1:], generator=torch.Generator().manual_seed(0)) for tensor in net.inputs
    )
    with torch.no_grad():
        got = first(net.model(*inputs))
    row = {**seconds, "peak_mib": peak, "parameters": after / before}
    unknown = zero(original, taken)
    if unknown:
        return {**row, "error": None, "unchecked": unknown}
    with torch.no_grad():
        error = difference(got, first(original(*inputs)))
        if LIMIT < error < float("inf"):  # networks that amplify rounding; edgespa's proof does the same
            wide = tuple(tensor.double() for tensor in inputs)
            error = difference(first(net.model.double()(*wide)), first(original.double()(*wide)))
    return {**row, "error": error}


def difference(got: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest output."""
    if got.shape != expected.shape:
        return float("inf")
    return float((got - expected).abs().max() / expected.abs().max())


def zero(model: nn.Module, taken: list[tuple[str, str, list[int]]]) -> str:
    """Set the removed channels to zero; indices count what was there when they were taken.

    Returns:
        What could not be done, or an empty string.
    """
    modules = dict(model.named_modules())
    alive: dict[tuple[str, str], np.ndarray] = {}
    for name, handler, indices in taken:
        module, side = modules.get(name), "in" if handler.endswith("_in_channels") else "out"
        if name == PARAMETER or isinstance(module, nn.MultiheadAttention):
            return name
        if module is None or not isinstance(getattr(module, "weight", None), Tensor):
            continue  # an operation without weights
        weight = module.weight
        groups = getattr(module, "groups", 1)
        if side == "in" and groups not in {1, weight.shape[0]}:
            width, rows = weight.shape[1], weight.shape[0] // groups
            here = alive.setdefault((name, side), np.arange(width * groups))
            with torch.no_grad():
                for index in here[indices]:
                    group = int(index) // width
                    weight[group * rows : (group + 1) * rows, int(index) % width] = 0.0
            alive[name, side] = np.delete(here, indices)
            continue
        transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        dim = int((side == "in") != transposed) if weight.dim() > 1 else 0
        here = alive.setdefault((name, side), np.arange(weight.shape[dim]))
        chosen = torch.from_numpy(here[indices])
        alive[name, side] = np.delete(here, indices)
        with torch.no_grad():
            weight.index_fill_(dim, chosen, 0.0)
            vectors = ("bias", "running_mean") if side == "out" else ()
            for vector in (getattr(module, key, None) for key in vectors):
                if isinstance(vector, Tensor):
                    vector.index_fill_(0, chosen, 0.0)
    return ""


def first(output: Any) -> Tensor:
    return torch.utils._pytree.tree_leaves(output)[0]


def timed(seconds: dict[str, float], key: str, work: Callable[[], Any]) -> Any:
    began = time.process_time()
    result = work()
    seconds[key] = time.process_time() - began
    return result


def peak_mib() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def child(name: str, tool: str, pipe: Any) -> None:
    try:
        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_GIB << 30, MEMORY_LIMIT_GIB << 30))
        net = networks.network(name)
        measure.randomise(net.model)
        net.model.eval()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        start = peak_mib()
        row = (edgespa if tool == "edgespa" else torch_pruning)(net)
        pipe.send({**row, "extra_mib": row["peak_mib"] - start})
    except BaseException as error:
        pipe.send({"failure": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]})


def measured(name: str, tool: str) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(name, tool, theirs))
    process.start()
    theirs.close()
    row: dict[str, Any] = {"failure": f"no end in {TIME_LIMIT_S} s"}
    if ours.poll(TIME_LIMIT_S):
        try:
            row = ours.recv()
        except EOFError:
            row = {"failure": "the process died"}
    process.kill()
    process.join()
    return {"name": name, "tool": tool, **row}


def right(row: dict[str, Any]) -> bool:
    return "failure" not in row and row["error"] is not None and row["error"] <= LIMIT


def table(rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["name"] for row in rows))
    known = {(row["name"], row["tool"]): row for row in rows}
    pairs = {name: [known[name, tool] for tool in TOOLS] for name in names if all((name, t) in known for t in TOOLS)}
    for index, tool in enumerate(TOOLS):
        runs = [pair[index] for pair in pairs.values() if "failure" not in pair[index]]
        unchecked = sum(row["error"] is None for row in runs)
        wrong = len(runs) - sum(map(right, runs)) - unchecked
        print(f"- {tool}: {len(runs)} of {len(pairs)} run, {sum(map(right, runs))} right", end="")
        print(f", {wrong} wrong, {unchecked} not checked" if wrong or unchecked else "")
    print(
        "\n| network | edgespa s: trace + label + choose + compact | torch-pruning s: set-up + prune | ratio "
        "| without trace | extra MiB, both | error edgespa | error torch-pruning |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    ratios = []
    for name, (own, other) in pairs.items():
        parts = [own.get(key, float("nan")) for key in ("trace_s", "label_s", "choose_s", "prune_s")]
        theirs = [other.get(key, float("nan")) for key in ("label_s", "prune_s")]
        ratio, bare = sum(parts) / sum(theirs), sum(parts[1:]) / sum(theirs)
        ratios += [ratio] if ratio == ratio else []
        print(
            f"| {name} | {' + '.join(f'{s:.2f}' for s in parts)} | {' + '.join(f'{s:.2f}' for s in theirs)} "
            f"| {ratio:.1f} | {bare:.1f} | {own.get('extra_mib', 0):.0f} / {other.get('extra_mib', 0):.0f} "
            f"| {said(own)} | {said(other)} |"
        )
    print(f"\nMedian ratio of seconds, where both run: {median(ratios):.2f}.")


def said(row: dict[str, Any]) -> str:
    if "failure" in row:
        return str(row["failure"])[:80]
    return f"{row['error']:.0e}" if row["error"] is not None else f"not checked: {row['unchecked']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", action="append", help="torchvision or timm; default both")
    parser.add_argument(
        "--name", default="", help="only networks with one of these comma-separated texts in their name"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    options = parser.parse_args()
    rows_file = options.output / "rows.jsonl"
    options.output.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.exists() else []
    if not options.table:
        every = {"torchvision": networks.names("torchvision"), "timm": tuple(f"timm:{name}" for name in TIMM)}
        import torch_pruning  # noqa: F401  (before the forks)

        warm = networks.network("torchvision:squeezenet1_1")
        find_groups(trace(warm.model.eval(), warm.inputs))  # first uses import much
        for name in [name for library in options.library or every for name in every[library]]:
            if not any(part in name for part in options.name.split(",")):
                continue
            for tool in TOOLS:
                if not any(row["name"] == name and row["tool"] == tool for row in rows):
                    row = measured(name, tool)
                    rows.append(row)
                    with rows_file.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(name, tool, said(row), file=sys.stderr, flush=True)
    table(rows)


if __name__ == "__main__":
    main()
