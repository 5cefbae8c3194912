"""Seconds to score, and how they grow with the number of images."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from common import PREPROCESS, Row, Rows, Setting, base, table, tuned

from edgespa.data import load_data, prepare
from edgespa.graph.program import Program
from edgespa.pruning.depth import features
from edgespa.selection.depth import METRICS, embedding, separation
from edgespa.tasks.base import Base

COUNTS = (250, 500, 1000, 2000)


def measure(setting: Setting, results: Path) -> None:
    """One row per number of images: process CPU seconds of the pass, of t-SNE, and of each metric, for 12 blocks."""
    rows, whole = Rows(results / "cost.jsonl"), base()
    path = setting.output / "fashion-lora.spa"
    program = whole.program
    if path.exists():
        task = tuned(whole, setting, "fashion", "lora")
        program = task.program(task.fit(whole))
    for count in COUNTS:
        rows.get({"images": count}, lambda count=count: _row(whole, program, setting, count))


def _row(whole: Base, program: Program, setting: Setting, count: int) -> Row:
    images = prepare(load_data(f"{setting.data}/fashion:train").limit(count), PREPROCESS)
    began = time.process_time()
    found = features(program, whole.blocks, images, token=True)
    row = {"features": time.process_time() - began}
    labels = images.labels.numpy().astype(np.int64)
    began = time.process_time()
    points = [embedding(each) for each in found.values()]
    row["tsne"] = time.process_time() - began
    for name, metric in METRICS.items():
        began = time.process_time()
        for each, point in zip(found.values(), points, strict=True):
            separation(point if metric.embeds else each, labels, metric)
        row[name] = time.process_time() - began
    return row


def report(results: Path) -> str:
    """The table, with how fast t-SNE grows."""
    rows = Rows(results / "cost.jsonl").rows
    names = ["features", "tsne", *METRICS]
    body = [[str(row["images"]), *(f"{row[name]:.2f}" for name in names)] for row in rows]
    head = ["images", "features", "t-SNE", "its silhouette", "silhouette", "Calinski-Harabasz", "Davies-Bouldin"]
    text = table(head, body)
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        power = np.log(last["tsne"] / first["tsne"]) / np.log(last["images"] / first["images"])
        text += f"\n\nt-SNE grows with the number of images to the power of {power:.2f} here."
    return text
