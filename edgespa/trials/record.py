"""The record of a search, ``search.json``: what was asked for, every trial and what became of it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from edgespa.config import Strict
from edgespa.findings.evaluation import Column
from edgespa.findings.stored import Finding
from edgespa.system.bounds import Count

Text = Annotated[str, Field(max_length=2000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Setting = bool | int | float | Annotated[str, Field(max_length=200)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Stage = Literal["", "cut", "few", "full", "file"]
State = Literal["waiting", "rejected", "stopped", "failed", "complete"]
Goal = Literal["quality", "latency", "bytes"]
Sampler = Literal["tpe", "nsga2", "random", "grid"]
STAGES: tuple[Stage, ...] = ("cut", "few", "full", "file")
GOALS: tuple[Goal, ...] = ("quality", "latency", "bytes")
SAMPLERS: tuple[Sampler, ...] = ("tpe", "nsga2", "random", "grid")
STAGE_WORDS = {"": "nothing", "cut": "cut", "few": "few epochs", "full": "fully adapted", "file": "its file"}
"""What a trial has come to, in words."""
MOST_TRIALS = 10_000


class Trial(Strict):
    """One trial: a recipe, and what became of it.

    Attributes:
        number: From 0, in the order in which they were proposed.
        wave: That it was in.
        digest: Of its recipe in this search.
        recipe: What varies, and does something in this trial: of an adapter without a rank there is none.
        defaults: It has the defaults where they vary, and goes on in any case: what the others are compared with.
        state: ``waiting``; ``rejected``, by the latency table or for its bytes, before anything was trained;
            ``stopped``, because others were better; ``failed``; ``complete``.
        stage: The last one that it has behind it.
        why: Of what became of it, in words.
        error: After the cut: the mean relative error of what its layers are made to compute.
        few: After few epochs: what decides, on the validation data.
        quality: Of its file, likewise.
        latency_ms: Foretold by the device's table.
        measured_ms: Measured on the device, of those on the front.
        size_bytes: Of the file; before there is one, of its parameters.
        parameters: Of the network.
        macs: Multiply-accumulates of one sample.
        test: On the test data, of those on the front.
        seconds: That its stages took together, those that it shares with others too.
        front: Its place on the front, from 1; None beside it.
        folder: With its task file and bundle, from the folder of the search; of those on the front.
    """

    number: Count
    wave: Count
    digest: Digest
    recipe: dict[Name, Setting]
    defaults: bool = False
    state: State = "waiting"
    stage: Stage = ""
    why: Text = ""
    error: Positive | None = None
    few: Number | None = None
    quality: Number | None = None
    latency_ms: Positive | None = None
    measured_ms: Positive | None = None
    size_bytes: Count | None = None
    parameters: Count | None = None
    macs: Count | None = None
    test: Number | None = None
    seconds: Positive = 0.0
    front: Count | None = None
    folder: Text | None = None

    @property
    def time_ms(self) -> float | None:
        """What an inference takes, as well as it is known."""
        return self.latency_ms if self.measured_ms is None else self.measured_ms


class Search(Finding):
    """A search.

    Attributes:
        model: The network.
        data: That it is trained on.
        validation: That trials are compared on.
        device: Where; None where latency is no goal.
        threads: Of the runtime.
        goals: What counts.
        latency_ms: What an inference may take; None for anything.
        size_bytes: What a file may have; None for anything.
        sampler: That proposes.
        seed: Of everything random.
        bracket: Trials of a wave.
        space: What varies.
        settings: What does not.
        identity: Digest of what was asked for; another one is another search.
        measure: What quality is, where it is known.
        trials: In their order.
        importance: Of each goal, how much of what is good in it hangs on which setting.
        done: Whether every trial that was asked for is done with.
        notes: What else there is to say.
    """

    FORMAT: ClassVar[str] = "edgespa search"
    format: Literal["edgespa search"] = "edgespa search"
    format_version: Literal[1] = 1
    model: Text
    data: Text
    validation: Text
    device: Text | None = None
    threads: Annotated[int, Field(ge=1, le=4096)] = 1
    goals: tuple[Goal, ...] = Field(min_length=1, max_length=3)
    latency_ms: Positive | None = None
    size_bytes: Count | None = None
    sampler: Sampler
    seed: Count = 0
    bracket: Count
    space: dict[Name, Any]
    settings: dict[Name, Any] = Field(default_factory=dict)
    identity: Digest
    measure: Column | None = None
    trials: tuple[Trial, ...] = Field(default=(), max_length=MOST_TRIALS)
    importance: dict[Goal, dict[Name, Positive]] = Field(default_factory=dict)
    done: bool = False
    notes: tuple[Text, ...] = ()

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other beats, in their order."""
        return tuple(sorted((each for each in self.trials if each.front), key=lambda each: each.front or 0))

    def counts(self) -> dict[str, int]:
        """How many trials ended how."""
        states = ("complete", "stopped", "rejected", "failed", "waiting")
        found = {state: sum(each.state == state for each in self.trials) for state in states}
        return {state: count for state, count in found.items() if count}
