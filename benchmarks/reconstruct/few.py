"""Fewer images than columns: the 1280 channels before MobileNetV2's classifier, the rest of the network whole."""

from __future__ import annotations

from pathlib import Path

import mobilenet
import numpy as np
import torch
from common import Row, Rows, table
from setting import Setting
from torch import Tensor, fx

from edgespa.data import Prepared
from edgespa.selection.reconstruct import Problem, greedy, reweight, shrinkage

COUNTS = (512, 128)
KEPT = (1152, 960, 800, 640, 512, 400, 256)
SHARES = (0.0, 0.25, 1.0, 4.0)  # of what `shrinkage` says


def measure(data: Path, output: Path, results: Path) -> None:
    rows = Rows(results / "few.jsonl")
    wanted = [{"images": n, "share": s, "kept": k} for n in COUNTS for s in SHARES for k in KEPT]
    if all(rows.find(key) is not None for key in wanted):
        return
    images = f"{data}/cifar10_jpeg.zip"
    setting = Setting.of(
        f"{data}/models.py:mobilenet_v2", mobilenet.PREPROCESS, f"{images}:train", f"{images}:test", max(COUNTS), 0,
        (), 512,
    )  # fmt: skip
    state = setting.base.program.state()
    matrix = torch.cat([state["fc.weight"].T, state["fc.bias"][None]]).double()
    seen, test = features(setting, setting.calibration), features(setting, setting.test)
    seen = seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))]
    for count in COUNTS:
        for share in SHARES:
            paths: list[np.ndarray] = []
            for kept in KEPT:
                key: Row = {"images": count, "share": share, "kept": kept}
                rows.get(key, lambda n=count, s=share, k=kept, p=paths: agreement(seen[:n], test, matrix, s, k, p))


def features(setting: Setting, data: Prepared) -> Tensor:
    """Inputs of the classifier, with a column of ones."""
    program = setting.base.program
    classifier = next(node for node in program.graph.nodes if node.op == "call_function" and "linear" in node.name)
    source, found = classifier.all_input_nodes[0].name, []

    class Record(fx.Interpreter):
        def run_node(self, node: fx.Node) -> object:
            value = super().run_node(node)
            if node.name == source:
                found.append(value)
            return value

    with torch.no_grad():
        for start in range(0, len(data), 4):
            Record(program.module).run(data.tensor(range(start, start + 4)))
    inputs = torch.cat(found).double()
    return torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)


def agreement(seen: Tensor, test: Tensor, matrix: Tensor, share: float, kept: int, paths: list[np.ndarray]) -> Row:
    columns = len(matrix) - 1
    gram = seen.T @ seen
    gram.diagonal()[:columns] += share * shrinkage(gram, len(seen), constant=True)
    cross = gram @ matrix
    if not paths:  # one pass gives the choice for every size
        units, constant = torch.arange(columns)[:, None], torch.tensor([columns])
        case = Problem(gram, cross, float((matrix * cross).sum()), units, constant)
        paths.append(greedy([case], guarantee=False).order)
    remain = torch.from_numpy(np.concatenate([paths[0][:kept], [columns]]))
    new = reweight(gram, cross, remain, matrix)
    same = (test @ new).argmax(1) == (test @ matrix).argmax(1)
    return {"agreement": float(same.double().mean())}


def report(results: Path) -> str:
    rows, body = Rows(results / "few.jsonl"), []
    for count in COUNTS:
        for share in SHARES:
            found = [rows.find({"images": count, "share": share, "kept": kept}) for kept in KEPT]
            name = {0.0: "no", 1.0: "yes"}.get(share, f"{share:g} times as much")
            body.append([str(count), name, *("-" if row is None else f"{row['agreement']:.1%}" for row in found)])
    head = ["images", "shrunk", *(f"{kept} kept" for kept in KEPT)]
    return "\n\n".join(["Top-1 agreement with the unpruned network on 512 other images.", table(head, body)])
