"""Trains the vision transformer of this benchmark on JPEG-CIFAR, on one CPU core.

    python benchmarks/depth/pretrain.py [--data FOLDER] [--output FOLDER] [--finish]

A full epoch of the whole network costs most of an hour there, so it begins small: few blocks on half the resolution
(16 tokens), then on a random part of the tokens of whole images, then more blocks, and all tokens at the end. A block
is split into two that each take half of its step (the output layers of both halves are halved), which hardly changes
the function. AdamW, linear warm-up, one cosine over all stages, flips and shifts, bfloat16 arithmetic, label smoothing
0.1. A checkpoint after every tenth of an epoch: an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from vit import PATCH, SIDE, VisionTransformer, weights_path

from edgespa.config import Preprocess
from edgespa.data import load_data, prepare

BATCH = 256
PEAK_LR = 1.5e-3
WARM_UP = 0.05
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Stage(NamedTuple):
    """A part of the training: blocks, height and width of the images, how many patches are looked at, epochs."""

    depth: int
    side: int
    tokens: int
    epochs: float


STAGES = (
    Stage(3, 16, 16, 15),
    Stage(3, 32, 16, 6),
    Stage(6, 32, 24, 8),
    Stage(12, 32, 24, 5),
    Stage(12, 32, 64, 1),
)


def cost(stage: Stage) -> float:
    """What an epoch of a stage costs, relative to others: blocks times tokens."""
    return stage.epochs * stage.depth * (stage.tokens + 1)


def images(data: Path, output: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images, uint8 [N, 3, 32, 32], and labels; decoded once."""
    cache = output / f"cifar-{split}.pt"
    if not cache.exists():
        source = load_data(f"{data}/cifar10_jpeg.zip:{split}")
        raw = Preprocess(height=SIDE, width=SIDE, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
        prepared = prepare(source, raw)
        parts = [(x.mul(255).round().to(torch.uint8), y) for x, y in prepared.batches(1000)]
        torch.save((torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])), cache)
    pixels, labels = torch.load(cache, weights_only=True)
    return pixels, labels


def normalised(pixels: Tensor, side: int) -> Tensor:
    """uint8 [N, 3, 32, 32] to the network's input at a resolution."""
    x = pixels.float().div(255).sub(torch.tensor(MEAN).view(3, 1, 1)).div(torch.tensor(STD).view(3, 1, 1))
    return x if side == SIDE else functional.avg_pool2d(x, SIDE // side)


def augmented(pixels: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Random flips and shifts by up to ``pad`` pixels, one draw per image."""
    n = len(pixels)
    flip = torch.rand(n, generator=generator) < 0.5
    pixels = torch.where(flip.view(-1, 1, 1, 1), pixels.flip(3), pixels)
    wide = functional.pad(pixels, (pad,) * 4)
    shift = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator) + torch.arange(SIDE)
    return wide[torch.arange(n).view(-1, 1, 1), :, shift[0].unsqueeze(2), shift[1].unsqueeze(1)].permute(0, 3, 1, 2)


def started(seed: int = 0) -> VisionTransformer:
    """The network of the first stage: truncated normal weights, positions as sines so that they mean something."""
    torch.manual_seed(seed)
    model = VisionTransformer(depth=STAGES[0].depth, side=STAGES[0].side)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.trunc_normal_(module.weight, std=0.02 if module is model.head else module.in_features**-0.5)
            torch.nn.init.zeros_(module.bias)
    torch.nn.init.trunc_normal_(model.cls, std=0.02)
    with torch.no_grad():
        model.positions[:, 1:] = sines(STAGES[0].side // PATCH, model.positions.shape[2])
    return model


def sines(side: int, width: int) -> Tensor:
    """Two-dimensional sine positions, [1, side * side, width], in units of the whole image."""
    place = (torch.arange(side) + 0.5) / side * 8
    angle = place.unsqueeze(1) * 100 ** (-torch.arange(width // 4) / (width // 4))
    wave = torch.cat([angle.sin(), angle.cos()], 1)
    both = torch.cat([wave.unsqueeze(1).expand(-1, side, -1), wave.unsqueeze(0).expand(side, -1, -1)], 2)
    return both.reshape(1, side * side, width) * 0.5


def grown(model: VisionTransformer, stage: Stage) -> VisionTransformer:
    """The network for the next stage, of nearly the same function."""
    old = model.state_dict()
    depth = len(model.blocks)
    times = stage.depth // depth
    new = {}
    for name, tensor in old.items():
        head, _, rest = name.partition(".")
        if head != "blocks":
            new[name] = tensor
            continue
        index, _, leaf = rest.partition(".")
        last = leaf.startswith(("attn.proj", "mlp.fc2"))
        for copy in range(times):
            new[f"blocks.{int(index) * times + copy}.{leaf}"] = tensor / times if last else tensor.clone()
    side = math.isqrt(new["positions"].shape[1] - 1)
    if side * PATCH != stage.side:
        cls, grid = new["positions"][:, :1], new["positions"][:, 1:]
        grid = grid.transpose(1, 2).unflatten(2, (side, side))
        grid = functional.interpolate(grid, size=stage.side // PATCH, mode="bicubic")
        new["positions"] = torch.cat([cls, grid.flatten(2).transpose(1, 2)], 1)
    result = VisionTransformer(depth=stage.depth, side=stage.side)
    result.load_state_dict(new)
    return result


def looked_at(model: VisionTransformer, images: Tensor, tokens: int, generator: torch.Generator) -> Tensor:
    """The network's output on some random patches of each image (PatchDropout, Liu et al. 2022, arXiv 2208.07220)."""
    x = model.patch(images).flatten(2).transpose(1, 2) + model.positions[:, 1:]
    if tokens < x.shape[1]:
        chosen = torch.rand(x.shape[:2], generator=generator).argsort(1)[:, :tokens]
        x = x.gather(1, chosen.unsqueeze(2).expand(-1, -1, x.shape[2]))
    cls = (model.cls + model.positions[:, :1]).expand(len(x), -1, -1)
    return model.head(model.norm(model.blocks(torch.cat([cls, x], 1)))[:, 0])


def optimiser(model: VisionTransformer) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only."""
    flat = [p for p in model.parameters() if p.dim() < 2]
    deep = [p for p in model.parameters() if p.dim() >= 2]
    groups = [{"params": deep, "weight_decay": 0.05}, {"params": flat, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, PEAK_LR, betas=(0.9, 0.98), fused=True)


def rate(done: float) -> float:
    """The learning rate at a fraction of the whole cost."""
    if done < WARM_UP:
        return PEAK_LR * done / WARM_UP
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


@torch.no_grad()
def accuracy(model: VisionTransformer, pixels: Tensor, labels: Tensor, side: int) -> float:
    """Fraction that is right."""
    right = 0
    for x, y in zip(pixels.split(500), labels.split(500), strict=True):
        right += int((model(normalised(x, side)).argmax(1) == y).sum())
    return right / len(labels)


def batches(count: int, stage: int, epoch: int) -> Iterator[Tensor]:
    """Indices of an epoch's batches, the same in every run."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1000 * stage + epoch))
    yield from order[: count // BATCH * BATCH].split(BATCH)


class Run:
    """The state of the training: which stage, which step of it, and what is learned."""

    def __init__(self, output: Path, count: int) -> None:
        self.path = output / "pretrain.pt"
        self.steps = [int(stage.epochs * (count // BATCH)) for stage in STAGES]
        self.stage, self.step, self.seconds = 0, 0, 0.0
        self.model = started()
        self.optimiser = optimiser(self.model)
        if self.path.exists():
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
            self.stage, self.step, self.seconds = state["stage"], state["step"], state["seconds"]
            self.model = VisionTransformer(STAGES[self.stage].depth, side=STAGES[self.stage].side)
            self.model.load_state_dict(state["model"])
            self.optimiser = optimiser(self.model)
            self.optimiser.load_state_dict(state["optimiser"])

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {"stage": self.stage, "step": self.step, "seconds": self.seconds}
        state |= {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        torch.save(state, self.path.with_suffix(".partial"))
        self.path.with_suffix(".partial").replace(self.path)

    def grow(self) -> None:
        """Go on to the next stage."""
        self.stage, self.step = self.stage + 1, 0
        self.model = grown(self.model, STAGES[self.stage])
        self.optimiser = optimiser(self.model)

    def done(self) -> float:
        """Fraction of the whole cost that is spent."""
        spent = sum(cost(stage) for stage in STAGES[: self.stage])
        spent += cost(STAGES[self.stage]) * self.step / self.steps[self.stage]
        return spent / sum(cost(stage) for stage in STAGES)


def train(run: Run, pixels: Tensor, labels: Tensor, test: tuple[Tensor, Tensor]) -> None:
    """All that is left of the stage, with a checkpoint every tenth of an epoch."""
    stage = STAGES[run.stage]
    per_epoch = len(labels) // BATCH
    began = time.process_time()
    while run.step < run.steps[run.stage]:
        order = list(batches(len(labels), run.stage, run.step // per_epoch))
        index = order[run.step % per_epoch]
        generator = torch.Generator().manual_seed(100_000 * run.stage + run.step)
        x = normalised(augmented(pixels[index], generator), stage.side)
        for group in run.optimiser.param_groups:
            group["lr"] = rate(run.done())
        with torch.autocast("cpu", torch.bfloat16):
            logits = looked_at(run.model, x, stage.tokens, generator)
        loss = functional.cross_entropy(logits.float(), labels[index], label_smoothing=0.1)
        run.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimiser.step()
        run.step += 1
        if run.step % (per_epoch // 10) == 0 or run.step == run.steps[run.stage]:
            run.seconds += time.process_time() - began
            began = time.process_time()
            run.save()
            print(f"{stage} {run.step / per_epoch:.1f}: loss {loss:.3f}, {run.seconds:.0f} s of CPU", flush=True)
        if run.step % per_epoch == 0 or run.step == run.steps[run.stage]:
            # They are in the order of their classes.
            found = accuracy(run.model, test[0][::5], test[1][::5], stage.side)
            print(f"{stage} {run.step / per_epoch:.1f}: {found:.2%} of every fifth test image", flush=True)
    run.seconds += time.process_time() - began


def main() -> None:
    """Train what is left, and write the weights with their accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGESPA_DATA", "../shared/data")))
    parser.add_argument("--output", type=Path, default=weights_path().parent)
    parser.add_argument("--finish", action="store_true", help="write the weights as they are, grown to full depth")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    pixels, labels = images(options.data, options.output, "train")
    test = images(options.data, options.output, "test")
    run = Run(options.output, len(labels))
    trained = {"images": sum(run.steps[: run.stage]) * BATCH + run.step * BATCH, "cpu_seconds": run.seconds}
    while True:
        if not options.finish:
            train(run, pixels, labels, test)
            trained = {"images": sum(run.steps) * BATCH, "cpu_seconds": run.seconds}
        if run.stage + 1 == len(STAGES):
            break
        run.grow()
    found = accuracy(run.model.eval(), *test, SIDE)
    save_file(run.model.state_dict(), options.output / "vit.safetensors")
    facts = {"accuracy": found, **trained, "finished": not options.finish}
    facts["stages"] = [stage._asdict() for stage in STAGES]
    (options.output / "pretrain.json").write_text(json.dumps(facts, indent=1))
    print(f"JPEG-CIFAR test accuracy {found:.2%}, {run.seconds:.0f} s of CPU")


if __name__ == "__main__":
    main()
