"""One adaptation and its steps: train, score, prune, validate; its state is kept by `edgespa.adaptation.state`."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as _tree

from edgespa.adaptation.batches import SCORING_BATCHES, Batch, Batches
from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.inside import Inside
from edgespa.adaptation.log import Told
from edgespa.adaptation.loss import TrainingLoss
from edgespa.adaptation.mixing import absorbed, moments_of_inputs
from edgespa.adaptation.small import Small
from edgespa.adaptation.timeline import Timeline
from edgespa.adapters.blocks import block_masks, penalty, storage, without_dead_units
from edgespa.adapters.factors import Factors, attach
from edgespa.adapters.renorm import calibrate, inserted_norms
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared
from edgespa.data.inputs import arguments
from edgespa.data.points import PointAnswers
from edgespa.distributed.processes import ALONE, Processes
from edgespa.errors import AdapterError, ConfigError, DataError
from edgespa.graph.groups import Kept
from edgespa.graph.surgery import compact, relative_indices
from edgespa.objectives.evaluate import BATCH_SIZE, Evaluation, batch_size, evaluate
from edgespa.objectives.measures import Measure
from edgespa.quantisation.trained import IMAGES, trained_ranges
from edgespa.selection.criteria import criterion_named
from edgespa.selection.score import loss_of, parameters_of, score_units
from edgespa.selection.select import Choose, select
from edgespa.selection.sparsity import UnitPenalty
from edgespa.tasks.base import Base
from edgespa.tasks.checkpoint import Checkpoint
from edgespa.tasks.task import AdapterHeader, Int8Header, Task, make_header

log = logging.getLogger(__name__)

Progress = Callable[[float, float | None, str], None]
_LOWER = "train with a lower learning rate (--lr)"


class Run(Small):
    """The state of one adaptation: the small program, its optimiser, and the best epoch so far.

    Args:
        base: With the head that the task needs, and what the adapter inserts.
        data: All training data.
        train: The part that is trained on.
        held_out: The part that the best epoch is chosen on.
        preprocess: How an image becomes an input; None where it is none.
        config: How to adapt.
        progress: Told ``(done, total, text)`` in training steps.
        loss: What is made small.
        processes: Those that share the training.
    """

    def __init__(
        self,
        base: Base,
        data: ImageData,
        train: Prepared,
        held_out: Prepared,
        preprocess: Preprocess | None,
        config: AdaptConfig,
        progress: Progress | None,
        loss: TrainingLoss | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.data_name = data.name
        self.samples = data.digest
        self.validation: str | None = None  # data of their own that the best epoch is chosen on
        self.classes = tuple(data.classes)
        self.lines = data.answers.lines if isinstance(data.answers, PointAnswers) else ()
        self.preprocess = preprocess
        processes.require_even(config.batch_size)
        self.log: Told | None = None
        self.choose: Choose | None = None
        self.start: dict[str, str] | None = None
        self._progress = progress
        self.batches = Batches(train, config, processes)
        self.held_out = held_out
        batches = train.num_batches(config.batch_size, drop_last=True)
        if not batches:
            raise DataError(
                f"{data.name}: {len(train)} training images are less than one batch of {config.batch_size}",
                "use more images or a smaller --batch-size",
            )
        self.steps = -(-batches // config.accumulate)  # training steps of an epoch
        super().__init__(base, config, Timeline.of(config, self.steps), loss or TrainingLoss(), processes)
        self._penalty: UnitPenalty | None = None
        self.epoch = 0
        self.inside = Inside()
        self.best: Checkpoint | None = None
        self.best_quality = -math.inf
        self.best_values: tuple[float, ...] = ()
        self.last: Evaluation | None = None
        self.history: list[dict[str, float]] = []
        self.lr_trials: dict[str, float | None] = {}
        self.settled = config.lr is not None

    @property
    def step(self) -> int:
        """Training steps that are behind."""
        return self.epoch * self.steps + self.inside.steps

    def train_epoch(self, pause: Callable[[], None] = lambda: None) -> None:
        """One pass over the training part, with the pruning steps that fall into it, and a validation.

        Args:
            pause: Called after every training step, and between the batches of a validation where this process is
                alone: the run can be gone on with from there, and may be left.
        """
        config, timeline, inside = self.config, self.timeline, self.inside
        # Dropout, which differs between processes; shuffling has a seed of its own, the same in all.
        torch.manual_seed(config.seed * 100_003 + self.epoch + 7_919_333 * self.processes.index)
        inside.set_random()
        step, began, used = self.step, time.monotonic(), time.process_time()
        self.set_training(True)
        batches = self.batches.of_epoch(self.epoch, inside.steps * config.accumulate, inside.draws)
        while group := list(itertools.islice(batches, config.accumulate)):
            if step in timeline.blocks_at:
                self._mask_blocks(timeline.blocks_at[step], step)
            if step in timeline.prune_at:
                self._prune(timeline.prune_at[step], step)
            if self._is_coarse_at(step) and not self.coarse:
                self.take_levels()
            if step == timeline.fixed_at:
                self._fix_ranges()
            value = self.learn(group, timeline.learning_rate(step))
            inside.loss += value
            inside.steps += 1
            step += 1
            pause()
            self._tell(step, value)
        mean_loss = self.processes.totals([inside.loss])[0] / self.steps / self.processes.count
        for name, tensor in self.factors().flat().items():
            if not torch.isfinite(tensor).all():
                raise AdapterError(f"{name} is not finite after epoch {self.epoch + 1}", _LOWER)
        self.set_training(False)
        looked = config.looks_after(self.epoch + 1)
        if looked:
            self.last = self._validated(pause)
        self.epoch += 1
        self.inside = Inside()
        found = self.last
        if found is None or not looked:
            return
        value = found.value
        self.history.append({"epoch": self.epoch, "density": self.density, "loss": mean_loss, "validation": value})
        log.info("epoch %d: density %.3f, loss %.4f, validation %.4f", self.epoch, self.density, mean_loss, value)
        if self.log is not None:
            spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - used}
            times = {name: round(value, 3) for name, value in spent.items()}
            self.log.write("epoch", **self.history[-1], lr=timeline.learning_rate(step - 1), **times, **self.costs())
        merit = self.measure.merit(value)
        if step > timeline.final_from and (merit > self.best_quality or config.take == "last"):
            self.best_quality, self.best_values = merit, found.values
            self.best = self.reached()

    @property
    def measure(self) -> Measure:
        """The one that decides which epoch is the best."""
        return self.loss.objective.measure

    def _validated(self, pause: Callable[[], None]) -> Evaluation:
        def answer(*inputs: Tensor) -> Any:
            if self.processes.count == 1:  # several would have to agree
                pause()
            return self.loss.raw(self.model(*inputs))

        size = batch_size(self.model.program, BATCH_SIZE)
        return evaluate(answer, self.held_out, self.loss.objective, batch=size, processes=self.processes)

    def learn(self, group: list[Batch], lr: float) -> float:
        """One training step on some batches; returns the mean loss.

        Args:
            group: Batches that are one: their losses are averaged by what each is the mean of.
            lr: Learning rate.

        Raises:
            AdapterError: If the loss is not a number in one of the processes.
        """
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        total, sparsity = 0.0, self._sparsity()
        for (inputs, targets), share in zip(group, self._shares(group), strict=True):
            with self.processes.autocast():
                outputs = self.model(*arguments(inputs))
            loss = self.loss(_tree.tree_map_only(Tensor, wide, outputs), targets, inputs) * share
            value = float(loss.detach())
            if not math.isfinite(self.processes.totals([value])[0]):
                raise AdapterError(f"the loss is not a number in epoch {self.epoch + 1}", _LOWER)
            extra = penalty(self.masked) if self.timeline.blocks_at else None
            if extra is not None:
                loss = loss + float(self.config.adapter_options["penalty"]) * extra / len(group)
            if sparsity is not None:  # once in a training step, and the same in all processes
                loss, sparsity = loss + sparsity, None
            self.processes.backward(loss)
            total += value
        self.processes.step(self.optimizer, self.config.clip)
        return total

    def _sparsity(self) -> Tensor | None:
        """What the units add to the loss; None where they add nothing."""
        strength = self.config.group_sparsity * self.timeline.sparsity(self.step)
        if not strength:
            return None
        tensors = dict(self.model.program.tensors())
        if self._penalty is None:
            own = parameters_of(self.model.program)
            self._penalty = UnitPenalty(self.base.groups, self.kept, own)
        return strength * self._penalty({**tensors, **self.model.effective()})

    def _shares(self, group: list[Batch]) -> list[float]:
        """What the loss of each batch counts, so that all of them, in all processes, are a mean as of one batch."""
        masses = [self.loss.mass(targets) for _, targets in group]
        (whole,) = self.processes.totals([sum(masses)])
        return [mass * self.processes.count / whole if whole else 0.0 for mass in masses]

    @torch.no_grad()
    def loss_now(self) -> float:
        """The objective's loss on a batch as it is."""
        inputs, targets = next(self.batches.plain(1))
        return float(self.processes.from_main(self.loss.plain(self.model(*arguments(inputs)), targets).detach()))

    def _prune(self, density: float, step: int) -> None:
        config = self.config
        self.set_training(False)
        tensors = dict(self.model.program.tensors())
        criterion = criterion_named(config.criterion)
        joined = config.accumulate if criterion.squared else 1
        scores = score_units(
            self.base.groups,
            self.kept,
            {**tensors, **self.model.effective()},
            config.criterion,
            config.normalisation,
            torch.Generator().manual_seed(config.seed + self.epoch),
            program=self.model.program,
            loss=loss_of(self.model.forward_with, self.loss.scored),
            output_loss=self.loss.relevance if criterion.relevance else self.loss.scored,
            batches=self.batches.for_scoring(self.epoch, joined),
            processes=self.processes,
            joined=joined,
            mass=self.loss.objective.mass,  # criteria know no weights of classes
        )
        groups, budget = self.base.groups, config.budget_of(density)
        if self.choose is not None:
            kept = self.choose(groups, scores, self.kept, density)
        else:
            kept = select(groups, scores, budget, config.constraints, self.base.cost, self.kept)
        self._become(kept, step, self._mixed(kept, joined))

    def _mixed(self, kept: Kept, joined: int) -> Factors | None:
        """The factors with what mixing adapters take over from channels that are going; None without such adapters."""
        indices = relative_indices(self.base.groups, self.kept, kept)
        moments = moments_of_inputs(self.model, indices, self.batches.for_scoring(self.epoch, joined), self.processes)
        return absorbed(self.model, self.factors(), indices, moments) if moments else None

    def _mask_blocks(self, density: float, step: int) -> None:
        """Choose the blocks anew, and take off the units that are gone with them."""
        masked = self.masked
        if not masked:
            raise ConfigError("no layer is large enough for block masks", "give a smaller --adapter-option block=N")
        weights = dict(self.model.program.tensors())
        with torch.no_grad():
            for name, mask in block_masks(masked, weights, self.config.adapter_options, density).items():
                masked[name].with_mask(mask)
        self._become(without_dead_units(self.base.groups, self.kept, masked, self.config.round_to), step)

    def begin_at(self, kept: Kept) -> None:
        """Begin with fewer units than the base has."""
        self._become(kept, 0)
        self.start = {name: np.packbits(mask).tobytes().hex() for name, mask in kept.items()}

    def calibrate_norms(self) -> None:
        """Let batch norms that were put in start as the identity, with the statistics of some training images."""
        if not self.adds_norms:
            return
        log.info("%d batch norms are added, behind convolutions without one", len(inserted_norms(self.base.program)))
        self.set_training(False)
        weights = self.model.effective()
        calibrate(self.model.program, weights, (arguments(inputs) for inputs, _ in self.batches.plain(SCORING_BATCHES)))
        self.set_training(True)

    def _fix_ranges(self) -> None:
        """Train with the ranges that the files will have from now on; the same in all processes."""
        count = max(1, min(SCORING_BATCHES, IMAGES // self.config.batch_size))
        batches = [arguments(inputs) for inputs, _ in self.batches.plain(count)]
        self.set_training(False)
        self.ranges = trained_ranges(self.model.merged(), batches)
        self.take_levels()

    def settle_rate(self, peak: float, trials: Mapping[str, float | None]) -> None:
        """Train with another peak learning rate.

        Args:
            peak: The rate.
            trials: The rates that were tried, with the loss at each; None where it came to no number.
        """
        self.timeline = dataclasses.replace(self.timeline, peak=peak)
        self.lr_trials = dict(trials)
        self.settled = True

    def go_on_from(self, kept: Kept, factors: Factors) -> None:
        """Begin with the units, the adapters and the trained tensors that a task has."""
        if self.loss.units is not None:
            factors = dataclasses.replace(factors, tensors=self.loss.units.tensors_inside(factors.tensors))
        self.put(kept, factors, {}, 0.0)
        self.start = {name: np.packbits(mask).tobytes().hex() for name, mask in kept.items()}

    def put(self, kept: Kept, factors: Factors, averages: Mapping[str, Factors], steps: float) -> None:
        """Be where a run was, see `Small.put`; with the levels of int8 where that step of the training has them."""
        self.coarse = self._is_coarse_at(self.step)
        super().put(kept, factors, averages, steps)

    def _keep(self, kept: Kept) -> None:
        super()._keep(kept)
        self._penalty = None

    def _become(self, kept: Kept, step: int, changed: Factors | None = None) -> None:
        """Continue with fewer units, in a step of the training."""
        self.narrow(kept, changed)
        self.set_training(True)
        if self.log is not None:
            self.log.write("prune", epoch=self.epoch + 1, step=step, density=self.density, **self.costs())

    def _is_coarse_at(self, step: int) -> bool:
        return self.timeline.quantise_at is not None and step >= self.timeline.quantise_at

    def _tell(self, step: int, loss: float) -> None:
        if self._progress:
            figure = self.measure.figure(self.history[-1]["validation"]) if self.history else ""
            reached = f"  validation {self.measure.title} {figure}" if figure else ""
            epoch = f"epoch {min(self.epoch + 1, self.config.epochs)} of {self.config.epochs}"
            text = f"{epoch}  density {self.density:.2f}  loss {loss:.3f}{reached}  {self._cost.macs / 1e6:.1f}M MACs"
            self._progress(step, self.timeline.total, text)

    def reached(self) -> Checkpoint:
        """Units, adapters and trained tensors as they are now, in memory of their own."""
        return Checkpoint({name: mask.copy() for name, mask in self.kept.items()}, self.factors().copied())

    def result(self, folder: Path) -> Task:
        """The task of the best epoch.

        Args:
            folder: Where the task file will lie.
        """
        best = self.best or self.reached()
        config = self.config
        program = compact(self.base.program, self.base.groups, best.kept)
        factors = best.factors.settled(program, config.adapter, config.adapter_options, self.base.program)
        if self.loss.units is not None:
            factors = dataclasses.replace(factors, tensors=self.loss.units.tensors_outside(factors.tensors))
        blocks = storage(attach(program, factors, config.adapter, config.adapter_options, self.base.program))
        header = make_header(
            self.base,
            best.kept,
            folder,
            stored_parameters=factors.size(),
            outputs=self.base.outputs() if self.classes else None,
            adapter=AdapterHeader(kind=config.adapter, options=config.adapter_options, norms=self.adds_norms),
            preprocess=self.preprocess,
            int8=Int8Header(ranges=self.ranges) if self.ranges else None,
            classes=self.classes,
            metrics={
                **{
                    f"validation_{measure.name}": value
                    for measure, value in zip(self.loss.objective.measures, self.best_values, strict=False)
                },
                "validation_images": float(len(self.held_out)),
            },
            provenance={
                "method": "adapt",
                "data": self.data_name,
                "config": config.model_dump(mode="json"),
                "lr": self.timeline.peak,
                "lr_trials": self.lr_trials,
                "frozen": dict(self.plan.frozen),
                "trained": dict(self.plan.trained_whole),
                **({"instead": dict(self.plan.instead)} if self.plan.instead else {}),
                "teacher": self.loss.teacher_name,
                "learns": self.loss.objective.name,
                **({"skeleton": [list(line) for line in self.lines]} if self.lines else {}),
                **({"units": units.record()} if (units := self.loss.units) is not None else {}),
                "blocks": dict(blocks) if blocks else None,
                "history": list(self.history),
                "torch": torch.__version__,
            },
        )
        return Task(header, best.kept, factors.adapters, factors.tensors, factors.shared)


def wide(tensor: Tensor) -> Tensor:
    """In float32 at least, whatever passes are computed in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.is_floating_point() else tensor
