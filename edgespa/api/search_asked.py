"""What a search was asked for: its space, what of a trial does something, and what each stage is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgespa.adaptation.config import AdaptConfig
from edgespa.adapters.kinds import FULL, kind_named
from edgespa.errors import ConfigError
from edgespa.pruning.config import METHODS
from edgespa.selection.config import SelectionConfig
from edgespa.trials.digests import content_of, digest_of
from edgespa.trials.front import third
from edgespa.trials.record import Goal, Sampler, Stage, Trial
from edgespa.trials.space import Choices, Space
from edgespa.workers.carried import may_be_carried

OF_FILES = ("precision", "format")
PRECISIONS, FORMATS = ("fp32", "int8"), ("onnx", "tflite")
"""Those that there are latency tables of."""
_NEVER = (
    "objective", "seed", "keep", "only", "adapter_settings", "class_weights", "augment", "validation", "hold_out",
    "take", "looks", "mixed_precision", "epochs",
)  # fmt: skip
"""Settings that say what is learned, on what, or how long: trials would not be comparable."""
KNOWN = (*OF_FILES, *(name for name in AdaptConfig.model_fields if name not in _NEVER))
DEFAULT: Mapping[str, Any] = MappingProxyType(
    {
        "density": "0.25..1:0.05",
        "rank": (4, 8, 16, 32),
        "adapter": ("splora", "lora", "full"),
        "criterion": ("taylor", "l1", "geometric-median"),
        "schedule": ("cubic", "linear", "one-shot"),
        "round_to": (4, 8, 16),
        "precision": PRECISIONS,
    }
)
"""What varies where nobody says it."""
OF_PRUNING = ("criterion", "schedule", "prune_steps", "prune_fraction", "prune_from", "prune_until", "round_to",
              "recovery_epochs", "group_sparsity", "budget", "normalisation", "min_width", "lr_restart")  # fmt: skip
STAND_IN = "l2"
"""By what units are cut at first where the criterion asks for gradients: the new task has none before it is learned."""
BYTES_OF = MappingProxyType({"fp32": 4, "int8": 1})
_SPECS = ("model", "data", "validation", "calibration", "weights")
_SHARES = (0.5, 0.75, 0.25, 1.0, 0.0)
"""Where in the range of densities the first trials lie."""
CALIBRATION = 256
"""Images that the first cut is looked at on, at most."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked for.

    Attributes:
        model: The network; a spec that holds in any folder.
        data: That it is trained on; likewise.
        validation: That trials are compared on; likewise.
        test: That the front is looked at on in the end; likewise; None for nothing.
        folder: The output.
        device: Where.
        threads: Of the runtime.
        space: What varies.
        settings: What does not, by the names of `AdaptConfig` and `OF_FILES`.
        opening: Keywords of all calls that open the network.
        reading: Of all calls that read images.
        labelled: Further ones of those that read what is right of them.
        limit: Of the data that trials are trained on.
        goals: What counts.
        latency_ms: What an inference may take.
        size_bytes: What a file may have.
        sampler: That proposes.
        trials: How many; None for all of a grid.
        bracket: Trials of a wave.
        timeout_s: No stage begins after that; None for no end.
        jobs: Processes.
        ray: A cluster in their place.
        seed: Of everything random.
        trackers: Keywords of `edgespa.adapt`, absolute places: what is told how each training goes. They change none.
    """

    model: str
    data: str
    validation: str
    test: str | None
    folder: Path
    device: str
    threads: int
    space: Space
    settings: Mapping[str, Any]
    opening: Mapping[str, Any]
    reading: Mapping[str, Any]
    labelled: Mapping[str, Any]
    limit: int | None
    eval_limit: int | None
    goals: tuple[Goal, ...]
    latency_ms: float | None
    size_bytes: int | None
    sampler: Sampler
    trials: int | None
    bracket: int
    timeout_s: float | None
    jobs: int
    ray: str | None
    seed: int
    trackers: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    _contents: dict[str, list[str | None]] = dataclasses.field(default_factory=dict, repr=False)

    def identity(self) -> str:
        """A digest of all that decides what the trials are and what becomes of them; not of how many, and where."""
        named = ("device", "threads", "goals", "latency_ms", "size_bytes", "sampler", "bracket", "seed", "limit")
        specs = (self.model, self.opening.get("weights"), self.data, self.validation)
        return digest_of(
            {
                "version": 2,
                "specs": [None if each is None else self._seen(str(each)) for each in specs],
                "space": self.space.plain(),
                **{name: _plain(getattr(self, name)) for name in named},
                **{
                    name: {
                        key: _plain(value)
                        for key, value in getattr(self, name).items()
                        if value is not None and key != "weights"
                    }
                    for name in ("settings", "opening", "reading", "labelled")
                },
            }
        )

    def _seen(self, spec: str) -> list[str | None]:
        """What lies where a spec points: the same when the folder of all of it was moved."""
        if spec not in self._contents:
            found = content_of(spec)
            self._contents[spec] = [spec if found is None else Path(spec).name, found]
        return self._contents[spec]

    def digest(self, stage: Stage, arguments: Mapping[str, Any]) -> str:
        """By what a stage is known.

        Args:
            stage: Which one.
            arguments: Of `stage`.
        """
        plain = {**arguments, **{name: self._seen(arguments[name]) for name in _SPECS if arguments.get(name)}}
        if "opening" in plain and plain["opening"].get("weights"):
            plain["opening"] = {**plain["opening"], "weights": self._seen(plain["opening"]["weights"])}
        if "task" in plain:
            plain["task"] = Path(plain["task"]).parent.name
        return digest_of({"stage": stage if stage != "few" else "full", **plain})

    def reads(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Files and folders that a stage reads.

        Args:
            arguments: Of `stage`.
        """
        found = [arguments.get(name) for name in (*_SPECS, "task")]
        for values in (arguments.get(name, {}) for name in ("opening", "training", "exporting")):
            found += [values.get(name) for name in ("weights", "labels", "class_weights", "distill", "objective")]
        return may_be_carried(found)

    @property
    def timed(self) -> bool:
        """Whether latencies count."""
        return "latency" in self.goals or self.latency_ms is not None

    def variants(self) -> tuple[str, ...]:
        """Of what files latencies are needed."""
        found = {name: self.space.dimensions.get(name) for name in OF_FILES}
        each = {name: (self._fixed(name),) if known is None else known.ends() for name, known in found.items()}
        return tuple(f"{form}-{precision}" for form in each["format"] for precision in each["precision"])

    def _fixed(self, name: str) -> Any:
        return self.settings.get(name, {"precision": "fp32", "format": "onnx"}[name])

    def config_of(self, recipe: Mapping[str, Any], where: str = "search") -> AdaptConfig:
        """How a trial is adapted.

        Args:
            recipe: What varies.
            where: For messages.

        Raises:
            ConfigError: It is not allowed.
        """
        values = {**self.settings, **recipe, "seed": self.seed}
        return AdaptConfig.parse({name: each for name, each in values.items() if name not in OF_FILES}, where, KNOWN)

    def canonical(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """What of a recipe does something: two that do the same are one.

        Args:
            recipe: What a sampler said.
        """
        adapter = recipe.get("adapter", self.settings.get("adapter", "splora"))
        density = recipe.get("density", self.settings.get("density", 1.0))
        options = {} if adapter == FULL else kind_named(str(adapter)).defaults
        idle = {name for name in ("rank", "kernel") if name not in options}
        idle |= set(OF_PRUNING) if density >= 1 else set()
        schedule = recipe.get("schedule", self.settings.get("schedule", "cubic"))
        idle |= {"prune_steps"} if schedule in ("one-shot", "stepwise") else set()
        idle |= {"prune_fraction"} if schedule != "stepwise" else set()
        return {name: each for name, each in recipe.items() if name not in idle}

    def known_good(self) -> list[dict[str, Any]]:
        """Trials to begin with: the defaults of `edgespa.adapt` where the space has them, at a few densities.

        What a search finds is worth something beside them alone.

        Returns:
            As many as the best third of a wave; the first is in the middle.
        """
        usual = {name: each.default for name, each in AdaptConfig.model_fields.items()}
        usual |= {name: self._fixed(name) for name in OF_FILES}
        plain: dict[str, Any] = {name: each.nearest(usual[name]) for name, each in self.space.dimensions.items()}
        own = {name: self.space.dimensions.get(name) for name in ("density", *OF_FILES)}
        found = []
        for turn in range(third(self.bracket)):
            point = dict(plain)
            if (density := own["density"]) is not None:
                point["density"] = density.part(_SHARES[turn % len(_SHARES)])
            for name in OF_FILES:
                if isinstance(choices := own[name], Choices):
                    point[name] = choices.values[turn % len(choices.values)]
            if point not in found:
                found.append(point)
        return found

    def variant_of(self, recipe: Mapping[str, Any]) -> str:
        """Of which file a trial is."""
        return f"{recipe.get('format', self._fixed('format'))}-{recipe.get('precision', self._fixed('precision'))}"

    def stage(self, trial: Trial, stage: Stage, before: Path | None) -> dict[str, Any]:
        """What a stage of a trial is asked for: keywords of `edgespa.api.search_stages`.

        Args:
            trial: It.
            stage: Which one.
            before: The folder of the stage before; of ``file``.
        """
        config = self.config_of(trial.recipe)
        form, _, precision = self.variant_of(trial.recipe).partition("-")
        said = config.model_dump(mode="json", exclude_unset=True)
        if stage == "cut":
            pruning = {name: said[name] for name in SelectionConfig.model_fields if name in said}
            method = config.criterion if config.criterion in METHODS else STAND_IN
            few = CALIBRATION if self.limit is None else min(self.limit, CALIBRATION)
            pruning |= {"density": config.density, "method": method, "limit": few, "seed": self.seed}
            return {
                "model": self.model, "calibration": self.data, "opening": dict(self.opening),
                "pruning": {**pruning, **self.reading},
            }  # fmt: skip
        if stage in ("few", "full"):
            epochs = config.epochs if stage == "full" else few_epochs(config.epochs)
            training = {**said, "epochs": epochs, "limit": self.limit, **self.reading, **self.labelled}
            return {
                "model": self.model, "data": self.data, "validation": self.validation,
                "opening": dict(self.opening), "training": training,
            }  # fmt: skip
        assert before is not None
        exporting = {
            "formats": [form], "precisions": [precision], "limit": self.limit, "seed": self.seed,
            "device": self.device if self.timed and self.device != "local" else None,
            **self.reading, **self.labelled,
        }  # fmt: skip
        return {
            "task": str(before / "task.spa"), "model": self.model, "weights": self.opening.get("weights"),
            "calibration": self.data, "validation": self.validation, "exporting": exporting,
        }  # fmt: skip


def few_epochs(epochs: int) -> int:
    """How many epochs the second stage has: a third, at least one.

    Args:
        epochs: Of the last stage.
    """
    return max(1, epochs // 3)


def space_of(given: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> Space:
    """The space: what was said, or `DEFAULT` without what is fixed.

    Args:
        given: What was said.
        settings: What is fixed.

    Raises:
        ConfigError: Something is not known, is no dimension, or varies and is fixed.
    """
    if given is None:
        return Space.parse({name: each for name, each in DEFAULT.items() if name not in settings}, KNOWN)
    space = Space.parse(given, KNOWN)
    for name in space.dimensions:
        if name in settings:
            raise ConfigError(f"space.{name} varies, and is said to be {settings[name]}", "leave one of them out")
    if not space.dimensions:
        raise ConfigError("nothing varies", "name what does: --space density=0.3..1:0.05, or leave space out")
    return space


def require_values(asked: Asked) -> None:
    """Refuse values that no trial could have.

    Args:
        asked: With its space.

    Raises:
        ConfigError: It names the first one.
    """
    known: Mapping[str, Sequence[str]] = {"precision": PRECISIONS, "format": FORMATS}
    for name, allowed in known.items():
        own = asked.space.dimensions.get(name)
        for each in own.ends() if own is not None else [asked.settings[name]] if name in asked.settings else []:
            if each not in allowed:
                raise ConfigError(f"{name}: a search has no {each}", f"choose from: {', '.join(allowed)}")
    asked.config_of({})
    for name, own in asked.space.dimensions.items():
        for each in own.ends():
            if name not in OF_FILES:
                asked.config_of({name: each}, "space")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
