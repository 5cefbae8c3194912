"""A search as it goes: waves of trials through their stages, what is kept of them on the disk, and how it goes on.

What decides is pure (`edgespa.trials`); what is done is done by jobs (`edgespa.api.search_stages`); here both meet. All
that is known of a trial is read off the results of its stages, so going on is going through the same waves again: what
has a result is not done a second time.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.search_asked import BYTES_OF, Asked
from edgespa.api.search_foretold import Foreteller
from edgespa.api.search_stages import CALL, RESULT, TRAINED, result_of
from edgespa.errors import EdgespaError
from edgespa.findings.evaluation import Column
from edgespa.objectives.measures import Measure
from edgespa.trials.digests import digest_of
from edgespa.trials.front import third
from edgespa.trials.record import STAGE_WORDS, Search, Stage, Trial
from edgespa.trials.rungs import going_on, merit, over_budget, told
from edgespa.trials.sampling import Grid, Proposer, Study, importance
from edgespa.workers import Ended, Job, Workers

if TYPE_CHECKING:
    from edgespa.api.options import Progress

log = logging.getLogger(__name__)

RECORD, STAGES = "search.json", "stages"


class Searching:
    """A search.

    Args:
        asked: What for.
        foretold: Foretells latencies.
        progress: Told ``(done, total, text)``.
    """

    def __init__(self, asked: Asked, foretold: Foreteller, progress: Progress) -> None:
        self.asked, self.progress = asked, progress
        self.trials: list[Trial] = []
        self.measure: Measure | None = None
        self.notes: list[str] = []
        self.done = False
        self._foretold = foretold
        self._ends = None if asked.timeout_s is None else time.monotonic() + asked.timeout_s
        self._identity = asked.identity()
        self._folders: dict[tuple[int, Stage], Path] = {}
        self._first: EdgespaError | None = None
        self._steps = 0

    def run(self, workers: Workers) -> None:
        """All waves, or until the time is over.

        Args:
            workers: That do the stages.

        Raises:
            EdgespaError: No trial of the first wave could be done: that of the first.
        """
        asked = self.asked
        proposer: Proposer
        if asked.sampler == "grid":
            proposer = Grid(asked.space, asked.canonical, asked.seed)
            most = len(proposer) if asked.trials is None else min(asked.trials, len(proposer))
        else:
            most = asked.trials or 0
            proposer = Study(
                asked.folder,
                asked.space,
                asked.canonical,
                asked.sampler,
                asked.goals,
                asked.bracket,
                asked.seed,
                asked.known_good(),
            )
        self._steps = sum(_steps(min(asked.bracket, most - at)) for at in range(0, most, asked.bracket))
        for wave in itertools.count():
            size = min(asked.bracket, most - len(self.trials))
            recipes = proposer.wave(size) if size > 0 else []
            if size > 0 and len(recipes) < size and asked.sampler != "grid":
                self.notes.append(f"the space has no more than {len(self.trials) + len(recipes):,} different trials")
            first = len(self.trials)
            for number, recipe in enumerate(recipes, first):
                digest = digest_of({"search": self._identity, "recipe": dict(recipe)})
                defaults = number == 0 and isinstance(proposer, Study)
                self.trials.append(
                    Trial(number=number, wave=wave, digest=digest, recipe=dict(recipe), defaults=defaults)
                )
            if not recipes:
                break
            whole = self._wave(range(first, len(self.trials)), workers)
            if not whole:
                self.notes.append("the time was over: the same command goes on with what is left")
                return
            if len(recipes) == asked.bracket:  # of fewer the last may be a part of a wave that becomes whole one day
                proposer.tell([told(each, asked.goals, self.measure) for each in self.trials[first:]])
            if len(recipes) < size:
                break
        self.done = True

    def _wave(self, numbers: Sequence[int], workers: Workers) -> bool:
        """One wave through its stages; False where the time was over."""
        asked = self.asked
        if not self._stage(numbers, "cut", workers):
            return False
        for number in self._open(numbers):
            why = over_budget(self.trials[number], asked.latency_ms, asked.size_bytes)
            if why is not None:
                self._change(number, state="rejected", why=why)
        if numbers[0] == 0 and self._first is not None and not any(self.trials[each].stage for each in numbers):
            raise self._first
        for stage in ("few", "full"):
            self._choose(self._open(numbers))
            if not self._stage(self._open(numbers), stage, workers):
                return False
        if not self._stage(self._open(numbers), "file", workers):
            return False
        for number in self._open(numbers):
            self._change(number, state="complete", why="")
        self.save()
        return True

    def _open(self, numbers: Sequence[int]) -> list[int]:
        """Those that are not done with."""
        return [each for each in numbers if self.trials[each].state == "waiting"]

    def _choose(self, numbers: Sequence[int]) -> None:
        """Stop those that are not in the best third; the trial of the defaults goes on beside it."""
        asked = self.asked
        trials = [self.trials[each] for each in numbers]
        kept = {numbers[each] for each in going_on(trials, asked.goals, self.measure)}
        beside = {each for each in numbers if self.trials[each].defaults} - kept
        kept |= beside
        self._steps += len(beside)
        for number in numbers:
            if number not in kept:
                after = {"cut": "the cut", "few": "few epochs"}[self.trials[number].stage]
                why = f"after {after} not among the best {len(kept) - len(beside)} of {len(numbers)}"
                self._change(number, state="stopped", why=why)
        self.save()

    def _stage(self, numbers: Sequence[int], stage: Stage, workers: Workers) -> bool:
        """A stage of several trials; False where the time was over before all had ended."""
        wanted: dict[str, tuple[dict[str, Any], list[int]]] = {}
        for number in numbers:
            before = self._folders.get((number, "full")) if stage == "file" else None
            arguments = self.asked.stage(self.trials[number], stage, before)
            digest = self.asked.digest(stage, arguments)
            self._folders[number, stage] = self.asked.folder / STAGES / digest
            wanted.setdefault(digest, (arguments, []))[1].append(number)
        waiting = []
        for digest, (arguments, own) in wanted.items():
            folder = self.asked.folder / STAGES / digest
            known = result_of(folder)
            if known is not None:
                self._take(own, stage, folder, known)
                continue
            name = f"trial {own[0]}: {STAGE_WORDS[stage]}"
            asked = {"stage": stage, "folder": str(folder), "asked": arguments}
            if self.asked.trackers and stage in TRAINED:
                run = f"{self.asked.folder.name}-{self.trials[own[0]].digest}-{stage}"
                asked |= {"trackers": self.asked.trackers, "name": run}
            reads, writes = self.asked.reads(arguments), (f"{STAGES}/{digest}", f"{STAGES}/{digest}/{RESULT}")
            job = Job(name, CALL, json.loads(json.dumps(asked)), None, reads, str(self.asked.folder), writes)
            waiting.append((job, own, folder))
        self.tell(f"{STAGE_WORDS[stage]}: {len(waiting)} to do")
        given = {id(job): (own, folder) for job, own, folder in waiting}
        left = iter(waiting)
        began = self._submit(left, workers)
        while began or workers.running:
            ended = workers.next()
            self._say(ended)
            own, folder = given[id(ended.job)]
            if ended.failure is None:
                self._take(own, stage, folder, ended.value)
            else:
                self._failed(own, stage, ended)
            self.save()
            began = self._submit(left, workers)
        return next(left, None) is None

    def _submit(self, left: Iterator[tuple[Job, list[int], Path]], workers: Workers) -> bool:
        """Give the workers as much as they have room for; whether they were given something."""
        some = False
        while len(workers.running) < workers.slots and not self._over():
            each = next(left, None)
            if each is None:
                break
            workers.submit(each[0])
            some = True
        return some

    def _over(self) -> bool:
        return self._ends is not None and time.monotonic() >= self._ends

    def _take(self, numbers: Sequence[int], stage: Stage, folder: Path, found: dict[str, Any]) -> None:
        """What a stage gave, for every trial that asked for it."""
        if "failed" in found:
            for number in numbers:
                why = f"{STAGE_WORDS[stage]}: {found['failed']}"
                self._change(number, state="failed", why=why[:2000], seconds=found.get("seconds", 0.0))
            return
        if "measure" in found:
            self.measure = Measure(**found["measure"])
        for number in numbers:
            trial = self.trials[number]
            variant = self.asked.variant_of(trial.recipe)
            more: dict[str, Any] = {"stage": stage, "seconds": round(trial.seconds + found["seconds"], 3)}
            if stage == "cut":
                more["error"] = found["error"]
            else:
                more["few" if stage == "few" else "quality"] = found["quality"]
            if "parameters" in found:
                more |= {"parameters": found["parameters"], "macs": found["macs"]}
                more["size_bytes"] = found["parameters"] * BYTES_OF[variant.rpartition("-")[2]]
                foretold = self._foretold.latency_ms(folder, variant)
                if foretold is not None:  # an adapter that adds modules has no other than that of its cut
                    more["latency_ms"] = foretold
            if "size_bytes" in found:
                more["size_bytes"] = found["size_bytes"]
            self._change(number, **more)
        self.tell(f"{STAGE_WORDS[stage]}: {self._best()}")

    def _failed(self, numbers: Sequence[int], stage: Stage, ended: Ended) -> None:
        """What became of a stage that gave nothing; it is tried again when the search is gone on with."""
        failure = ended.failure
        assert failure is not None
        if failure.stopped:
            raise KeyboardInterrupt
        log.log(logging.DEBUG, "%s", failure.traceback)
        self._first = self._first or EdgespaError(failure.message, failure.hint)
        for number in numbers:
            why = f"{STAGE_WORDS[stage]}: {failure.message}"
            self._change(number, state="failed", why=why[:2000])
        log.warning("trial %d: %s", numbers[0], failure.message)

    def _say(self, ended: Ended) -> None:
        for level, text in ended.said:
            log.log(logging.DEBUG if level < logging.WARNING else logging.INFO, "%s: %s", ended.job.name, text)

    def _best(self) -> str:
        """The best that is known, for progress."""
        known = [each for each in self.trials if each.quality is not None and merit(each, self.measure) is not None]
        if not known or self.measure is None:
            return f"{len(self.trials)} trials"
        found = min(known, key=lambda each: merit(each, self.measure) or 0.0)
        return f"best {self.measure.title} {self.measure.figure(found.quality or 0.0)}"

    def tell(self, text: str) -> None:
        """Say how far it is."""
        order = {"": 0, "cut": 1, "few": 2, "full": 3, "file": 4}
        self.progress(min(self._steps, sum(order[each.stage] for each in self.trials)), self._steps or None, text)

    def _change(self, number: int, **values: Any) -> None:
        self.trials[number] = self.trials[number].model_copy(update=values)

    def folder_of(self, number: int, stage: Stage) -> Path:
        """Where what a stage of a trial made lies.

        Args:
            number: Of the trial.
            stage: That it has behind it.
        """
        return self._folders[number, stage]

    def record(self) -> Search:
        """What is known by now."""
        asked = self.asked
        return Search(
            model=asked.model,
            data=asked.data,
            validation=asked.validation,
            device=asked.device if asked.timed else None,
            threads=asked.threads,
            goals=asked.goals,
            latency_ms=asked.latency_ms,
            size_bytes=asked.size_bytes,
            sampler=asked.sampler,
            seed=asked.seed,
            bracket=asked.bracket,
            space=asked.space.plain(),
            settings={name: list(each) if isinstance(each, tuple) else each for name, each in asked.settings.items()},
            identity=self._identity,
            measure=None if self.measure is None else Column.of(self.measure),
            trials=tuple(self.trials),
            importance=self._importance() if self.done else {},
            done=self.done,
            notes=tuple(self.notes),
        )

    def save(self) -> None:
        """Write it."""
        self.record().write(self.asked.folder / RECORD)

    def _importance(self) -> dict[Any, dict[str, float]]:
        """Of what was known of all trials: of the quality how far each came, else what was foretold."""
        asked, found = self.asked, {}
        if asked.sampler == "grid":
            return {}
        known = [(each, told(each, asked.goals, self.measure)) for each in self.trials]
        for place, goal in enumerate(asked.goals):
            rows = [(each, values[place]) for each, values in known if values is not None and each.stage]
            if rows and (
                own := importance(
                    asked.space,
                    [each.recipe for each, _ in rows],
                    [value for _, value in rows],
                    rises=goal == "quality",
                )
            ):
                found[goal] = own
        return found


def _steps(size: int) -> int:
    """Stages of a wave of so many."""
    return size + third(size) + 2 * third(third(size))
