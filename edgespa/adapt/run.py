"""The state of one adaptation and its steps: train, score, prune, validate, save and restore."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgespa.adapt.config import AdaptConfig
from edgespa.adapters.adapted import AdaptedProgram, plan
from edgespa.adapters.factors import Factors, attach
from edgespa.base import Base
from edgespa.checkpoint import Checkpoint
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared
from edgespa.errors import AdapterError, ConfigError, DataError
from edgespa.evaluate import accuracy
from edgespa.graph.groups import Kept
from edgespa.graph.surgery import compact, head_tensors, relative_indices
from edgespa.pruning.schedule import densities
from edgespa.pruning.score import cross_entropy_of, score_units
from edgespa.pruning.select import select
from edgespa.task import AdapterHeader, Header, Task, make_header

log = logging.getLogger(__name__)

Progress = Callable[[float, float | None, str], None]
SCORING_BATCHES = 8
DEFAULT_LR = {"splora": 2e-2, "full": 1e-2}  # AdamW; measured by benchmarks/main_job/defaults.py
_LOWER = "train with a lower learning rate (--lr)"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Run:
    """The state of one adaptation: the small program, its optimiser, and the best epoch so far."""

    def __init__(
        self,
        base: Base,
        data: ImageData,
        train: Prepared,
        held_out: Prepared,
        preprocess: Preprocess,
        config: AdaptConfig,
        progress: Progress | None,
    ) -> None:
        self.base = base
        self.config = config
        self.data_name = data.name
        self.classes = tuple(data.classes)
        self.preprocess = preprocess
        self._progress = progress
        self.train = train
        self.held_out = held_out
        self.batches = self.train.num_batches(config.batch_size, drop_last=True)
        if not self.batches:
            raise DataError(
                f"{data.name}: {len(train)} training images are less than one batch of {config.batch_size}",
                "use more images or a smaller --batch-size",
            )
        self.total = self.batches * config.epochs
        self.kept: Kept = base.groups.all_kept()
        generator = torch.Generator().manual_seed(config.seed)
        head = head_tensors(base.program)
        planned = plan(base.program, config.adapter, config.adapter_options, head, generator)
        self.frozen = planned.frozen
        self.statistics = planned.statistics
        self.model = AdaptedProgram(base.program, planned.adapters, planned.trained)
        self.optimizer = self._fresh_optimizer()
        self.epoch = 0
        self.best: Checkpoint | None = None
        self.best_accuracy = -1.0
        self.history: list[dict[str, float]] = []
        self.prune_at = self._pruning_steps()

    def _pruning_steps(self) -> dict[int, float]:
        """Training step -> density that holds from there on."""
        config = self.config
        steps = densities(config.schedule, config.density, config.prune_steps)
        first, last = round(config.prune_from * self.total), round(config.prune_until * self.total)
        gaps = max(len(steps) - 1, 1)
        exact = [first + round((last - first) * index / gaps) for index in range(len(steps))]
        # Never after the last step: the final density has to be reached, and trained on.
        return {min(step, self.total - 1): density for step, density in zip(exact, steps, strict=True)}

    @property
    def final_from(self) -> int:
        """The training step from which the final density holds."""
        return max(self.prune_at, default=0)

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
        return named

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        named = self.named_parameters().values()
        matrices = [p for p in named if p.dim() > 1]
        vectors = [p for p in named if p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate(0))

    def learning_rate(self, step: int) -> float:
        """Linear warm-up over 5% of the steps, then a half cosine to zero."""
        peak = self.config.lr or DEFAULT_LR[self.config.adapter]
        warm_up = max(1, round(0.05 * self.total))
        if step < warm_up:
            return peak * (step + 1) / warm_up
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, self.total - warm_up)))

    def train_epoch(self) -> None:
        """One pass over the training part, with the pruning steps that fall into it, and a validation."""
        config = self.config
        torch.manual_seed(config.seed * 100_003 + self.epoch)  # dropout; shuffling has its own seed
        step = self.epoch * self.batches
        total_loss = 0.0
        self.model.set_training(True)
        for images, labels in self._epoch_batches():
            if step in self.prune_at:
                self._prune(self.prune_at[step])
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(step)
            loss = nn.functional.cross_entropy(self.model(images), labels)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise AdapterError(f"the loss is not a number in epoch {self.epoch + 1}", _LOWER)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total_loss += value
            step += 1
            self._tell(step, f"density {self.density:.2f}  loss {value:.3f}")
        mean_loss = total_loss / self.batches
        for name, tensor in self._factors().flat().items():
            if not torch.isfinite(tensor).all():
                raise AdapterError(f"{name} is not finite after epoch {self.epoch + 1}", _LOWER)
        self.model.set_training(False)
        value = accuracy(self.model, self.held_out)
        self.epoch += 1
        self.history.append({"epoch": self.epoch, "density": self.density, "loss": mean_loss, "validation": value})
        log.info("epoch %d: density %.3f, loss %.4f, validation %.4f", self.epoch, self.density, mean_loss, value)
        if step > self.final_from and value > self.best_accuracy:
            self.best_accuracy = value
            self.best = self._state()

    @property
    def density(self) -> float:
        """Channel density now."""
        return self.base.groups.channel_density(self.kept)

    def _epoch_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._shuffled(self.config.seed * 1_000_003 + self.epoch)

    def _shuffled(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.train.batches(self.config.batch_size, shuffle_seed=seed, drop_last=True):
            yield images.to(memory_format=torch.channels_last), labels  # convolutions train faster so on a CPU

    def _prune(self, density: float) -> None:
        config = self.config
        self.model.set_training(False)
        tensors = dict(self.model.program.tensors())
        scores = score_units(
            self.base.groups,
            self.kept,
            {**tensors, **self.model.effective()},
            config.criterion,
            config.normalisation,
            torch.Generator().manual_seed(config.seed + self.epoch),
            loss=cross_entropy_of(self.model.forward_with),
            batches=self._scoring_batches(),
        )
        kept = select(
            self.base.groups,
            scores,
            config.budget_of(density),
            config.constraints,
            self.base.cost,
            self.kept,
        )
        self._become(kept)
        self.model.set_training(True)

    def _scoring_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        seed = self.config.seed * 7_919 + self.epoch
        yield from itertools.islice(self._shuffled(seed), SCORING_BATCHES)

    def _factors(self) -> Factors:
        adapters = {name: self.model.adapter_of(name).tensors() for name in self.model.adapted}
        return Factors(adapters, self.model.task_tensors(self.statistics))

    def _averages(self) -> dict[str, Factors]:
        """The optimiser's running averages, in the structure of the parameters that they belong to."""
        found = {}
        for moment in _MOMENTS:
            flat = {
                key: self.optimizer.state[parameter][moment]
                for key, parameter in self.named_parameters().items()
                if moment in self.optimizer.state[parameter]
            }
            found[moment] = Factors.from_flat(flat)
        return found

    def _become(self, kept: Kept) -> None:
        """Continue with fewer units; factors, tensors and the optimiser's averages lose the same indices."""
        kind, options = self.config.adapter, self.config.adapter_options
        indices = relative_indices(self.base.groups, self.kept, kept)
        shapes = {name: tuple(tensor.shape) for name, tensor in self.model.program.tensors()}
        factors = self._factors().narrowed(shapes, indices, kind, options)
        averages = {m: own.narrowed(shapes, indices, kind, options) for m, own in self._averages().items()}
        self.kept = kept
        self._rebuild(factors, averages, self._optimizer_steps())

    def _rebuild(self, factors: Factors, averages: Mapping[str, Factors], steps: float) -> None:
        program = compact(self.base.program, self.base.groups, self.kept)
        self.model = attach(program, factors, self.config.adapter, self.config.adapter_options)
        self.optimizer = self._fresh_optimizer()
        flat = {moment: own.flat() for moment, own in averages.items()}
        for key, parameter in self.named_parameters().items():
            if steps and all(key in own for own in flat.values()):
                own = {moment: values[key] for moment, values in flat.items()}
                self.optimizer.state[parameter] = {"step": torch.tensor(steps), **own}

    def _optimizer_steps(self) -> float:
        return max((float(state["step"]) for state in self.optimizer.state.values() if "step" in state), default=0.0)

    def _tell(self, step: int, text: str) -> None:
        if self._progress:
            self._progress(step, self.total, text)

    def _state(self) -> Checkpoint:
        return Checkpoint({name: mask.copy() for name, mask in self.kept.items()}, self._factors().copied())

    def snapshot(self) -> Checkpoint:
        """Everything that the next epoch depends on."""
        averages = {f"{m}/{key}": t for m, own in self._averages().items() for key, t in own.flat().items()}
        facts = {
            **self._identity(),
            "epoch": self.epoch,
            "best_accuracy": self.best_accuracy,
            "history": self.history,
            "optimizer_steps": self._optimizer_steps(),
        }
        return Checkpoint(self.kept, self._factors(), averages, facts, self.best)

    def _identity(self) -> dict[str, Any]:
        return {
            "digest": self.base.digest,
            "data": self.data_name,
            "config": self.config.model_dump(mode="json"),
            "preprocess": self.preprocess.model_dump(mode="json"),
        }

    def restore(self, state: Checkpoint) -> None:
        """Go on from a snapshot of the same run.

        Raises:
            ConfigError: If it is of another run.
        """
        for key, value in self._identity().items():
            if state.facts.get(key) != value:
                raise ConfigError(
                    f"the unfinished run was made with another {key}",
                    "start anew without --resume, or say the same again",
                )
        self.kept = state.kept
        averages = {
            moment: Factors.from_flat(
                {k.partition("/")[2]: t for k, t in state.averages.items() if k.startswith(f"{moment}/")}
            )
            for moment in _MOMENTS
        }
        self._rebuild(state.factors, averages, float(state.facts["optimizer_steps"]))
        self.epoch = int(state.facts["epoch"])
        self.best_accuracy = float(state.facts["best_accuracy"])
        self.history = list(state.facts["history"])
        self.best = state.best

    def result(self, folder: Path) -> Task:
        """The task of the best epoch."""
        best = self.best or self._state()
        header = self._header(best, folder)
        return Task(header, best.kept, best.factors.adapters, best.factors.tensors)

    def _header(self, best: Checkpoint, folder: Path) -> Header:
        config = self.config
        return make_header(
            self.base,
            best.kept,
            folder,
            stored_parameters=best.factors.size(),
            outputs=len(self.classes),
            adapter=AdapterHeader(kind=config.adapter, options=config.adapter_options),
            preprocess=self.preprocess,
            classes=self.classes,
            metrics={"validation_accuracy": self.best_accuracy},
            provenance={
                "method": "adapt",
                "data": self.data_name,
                "config": config.model_dump(mode="json"),
                "frozen": dict(self.frozen),
                "history": list(self.history),
                "torch": torch.__version__,
            },
        )
