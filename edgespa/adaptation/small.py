"""The small program of an adaptation, its adapters and its optimiser: how it becomes smaller, and coarser."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.loss import TrainingLoss
from edgespa.adaptation.mixing import without_changed
from edgespa.adaptation.moments import averages_of, fresh_optimizer, give_past, steps_of
from edgespa.adaptation.timeline import Timeline
from edgespa.adapters.adapted import AdaptedProgram, plan
from edgespa.adapters.blocks import masked_adapters
from edgespa.adapters.factors import Factors, attach
from edgespa.adapters.renorm import behind_norms, inserted_norms, with_momentum
from edgespa.adapters.splopa import SPLoPA
from edgespa.distributed.processes import Processes
from edgespa.graph.groups import Kept
from edgespa.graph.inner import watched
from edgespa.graph.program import Program
from edgespa.graph.surgery import compact, relative_indices
from edgespa.quantisation.fake import coarse_weights, with_levels
from edgespa.quantisation.ranges import Range
from edgespa.tasks.base import Base


class Small:
    """What is trained: a program that has lost units, with what the adapters and the optimiser have of those left.

    Args:
        base: With the head that the task needs, and what the adapter inserts.
        config: How to adapt.
        timeline: What falls into which training step.
        loss: What is made small, with what it looks at inside.
        processes: Those that share the training.
    """

    def __init__(
        self, base: Base, config: AdaptConfig, timeline: Timeline, loss: TrainingLoss, processes: Processes
    ) -> None:
        self.base = base
        self.config = config
        self.timeline = timeline
        self.loss = loss
        self.processes = processes
        self.kept: Kept = base.groups.all_kept()
        self._cost = base.cost.cost()
        generator = torch.Generator().manual_seed(config.seed)
        head = base.head()
        options = config.adapter_options
        planned = plan(base.program, config.adapter, options, head, generator, freeze_norms=config.freeze_norms)
        self.plan = planned
        self.statistics = planned.statistics
        self.coarse = False
        self.ranges: dict[str, Range] = {}  # of activations, where they are those of the files already
        program = self._trainable(base.program)
        self.model = AdaptedProgram(program, planned.adapters, planned.trained, planned.shared)
        self.model.move_to(processes.device)
        self.optimizer = self._fresh_optimizer()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by the keys of a task file."""
        named: dict[str, nn.Parameter] = {}
        for name in self.model.adapted:
            for factor, parameter in self.model.adapter_of(name).named_parameters():
                named[f"adapter/{name}/{factor}"] = parameter
        tensors = dict(self.model.program.tensors())
        for name in self.model.trained:
            tensor = tensors[name]
            assert isinstance(tensor, nn.Parameter)
            named[f"tensor/{name}"] = tensor
        return {**named, **{f"shared/{name}": parameter for name, parameter in self.model.shared.items()}}

    @property
    def density(self) -> float:
        """Channel density now."""
        return self.base.groups.channel_density(self.kept)

    @property
    def masked(self) -> Mapping[str, SPLoPA]:
        """Adapters with block masks, by tensor."""
        return masked_adapters({name: self.model.adapter_of(name) for name in self.model.adapted})

    def factors(self) -> Factors:
        """Adapters and trained tensors as they are now, on the CPU."""
        return Factors.of(self.model, self.statistics).on_cpu()

    @property
    def adds_norms(self) -> bool:
        """Whether the adapter puts norms in."""
        return bool(inserted_norms(self.base.program))

    def set_training(self, training: bool) -> None:
        """Training or evaluation form of the program."""
        synced = self.processes.count > 1
        self.model.set_training(training, freeze_norms=self.config.freeze_norms, synced=synced)

    def put(self, kept: Kept, factors: Factors, averages: Mapping[str, Factors], steps: float) -> None:
        """Be where a run was.

        Args:
            kept: Its units.
            factors: Its adapters and trained tensors.
            averages: The optimiser's running averages, by moment.
            steps: That the optimiser has taken.
        """
        self._keep(kept)
        self._rebuild(factors, averages, steps)

    def narrow(self, kept: Kept, changed: Factors | None = None) -> None:
        """Continue with fewer units; factors, tensors and the optimiser's averages lose the same indices.

        Args:
            kept: Units that are left.
            changed: Factors in place of those that there are; what was changed has no past.
        """
        kind, options = self.config.adapter, self.config.adapter_options
        indices = relative_indices(self.base.groups, self.kept, kept)
        if indices:
            shapes = {name: tuple(tensor.shape) for name, tensor in self.model.program.tensors()}
            places = self.model.places
            before = self.factors()
            own = changed or before
            factors = own.narrowed(shapes, indices, kind, options, places=places)
            averages = {
                moment: average.narrowed(shapes, indices, kind, options, places=places, like=own)
                for moment, average in averages_of(self.optimizer, self.named_parameters()).items()
            }
            if changed is not None:
                averages = {moment: without_changed(each, before, changed) for moment, each in averages.items()}
            self.put(kept, factors, averages, steps_of(self.optimizer))

    def take_levels(self) -> None:
        """Compute with the levels of int8 from now on; the optimiser goes on as it was."""
        averages, steps = averages_of(self.optimizer, self.named_parameters()), steps_of(self.optimizer)
        self.coarse = True
        self._rebuild(self.factors(), averages, steps)
        self.set_training(True)

    def _rebuild(self, factors: Factors, averages: Mapping[str, Factors], steps: float) -> None:
        program = self._trainable(compact(self.base.program, self.base.groups, self.kept))
        self.model = attach(program, factors, self.config.adapter, self.config.adapter_options, self.base.program)
        if self.coarse:
            self.model.coarse = coarse_weights(program)
        self.model.move_to(self.processes.device)
        self.optimizer = self._fresh_optimizer()
        give_past(self.optimizer, self.named_parameters(), averages, steps)

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        return fresh_optimizer(self.named_parameters(), self.timeline.learning_rate(0), self.config.weight_decay)

    def _trainable(self, program: Program) -> Program:
        """A program as it is trained: it gives the inner values that the objective looks at, and has levels."""
        inner = self.loss.objective.inner
        program = watched(program, behind_norms(program, inner)) if inner else program
        program = with_levels(program, self.ranges) if self.coarse else program
        momentum = self.config.norm_momentum
        return program if momentum is None else with_momentum(program, momentum)

    def _keep(self, kept: Kept) -> None:
        self.kept = kept
        self._cost = self.base.cost.cost(kept)

    def costs(self) -> dict[str, int]:
        """Of the small program: its parameters and MACs."""
        return {"parameters": self._cost.parameters, "macs": self._cost.macs}
