"""Who proposes trials: a grid, or a study of Optuna, which is kept on the disk. Same seed, same proposals.

A study is asked for a wave of trials and told what became of all of them before the next is asked for, in the order of
their numbers. Whoever proposes is made anew for each of them, with a seed of the search's seed and the proposal's
number: what is drawn hangs on nothing else but what was told before, so that a search that was killed goes on with the
trials that it would have had.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgespa.errors import MissingExtraError
from edgespa.trials.digests import digest_of
from edgespa.trials.record import Goal, Sampler
from edgespa.trials.space import Choices, Space, Value

if TYPE_CHECKING:
    import optuna

Recipe = Mapping[str, Value]
JOURNAL = "study.journal"
STUDY = "search"
_TRIES = 50
"""Proposals that were there before, in a row, until a space is taken to have no more."""


class Proposer(Protocol):
    """Proposes trials, wave after wave."""

    def wave(self, count: int) -> list[Recipe]:
        """Recipes that were not there before: so many, or fewer where there are no more.

        Args:
            count: How many.
        """

    def tell(self, values: Sequence[Sequence[float] | None]) -> None:
        """What became of the last wave, in its order.

        Args:
            values: Of each goal a number; None for a trial that failed.
        """


def require_optuna() -> None:
    """Refuse before anything is done where no study can be made.

    Raises:
        MissingExtraError: It names the extra.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise MissingExtraError("optuna", "search") from None


class Grid:
    """All points of a space, each once, in an order that the seed decides: of few trials they are not all in a corner.

    Args:
        space: Its ranges have steps.
        canonical: What of a point does something.
        seed: Of the order.

    Raises:
        ConfigError: A range has no step.
    """

    def __init__(self, space: Space, canonical: Callable[[Recipe], Recipe], seed: int) -> None:
        points = {digest_of(dict(each)): each for each in map(canonical, space.grid())}
        self._left = list(points.values())
        random.Random(seed).shuffle(self._left)  # nothing is secret

    def __len__(self) -> int:
        return len(self._left)

    def wave(self, count: int) -> list[Recipe]:
        """See `Proposer`."""
        found, self._left = self._left[:count], self._left[count:]
        return found

    def tell(self, values: Sequence[Sequence[float] | None]) -> None:
        """A grid learns nothing."""


class Study:
    """A study of Optuna in a folder.

    Args:
        folder: Of the search; the study is in its file `JOURNAL`.
        space: What varies.
        canonical: What of a point does something.
        sampler: Which of Optuna's.
        goals: Whose numbers are told.
        bracket: Trials of a wave: before the first is done, nothing is known.
        seed: Of everything random.
        first: Points that are proposed before all others: what is known to be good.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        canonical: Callable[[Recipe], Recipe],
        sampler: Sampler,
        goals: Sequence[Goal],
        bracket: int,
        seed: int,
        first: Sequence[Recipe] = (),
    ) -> None:
        self._first = tuple(first)
        self._space, self._canonical, self._kind = space, canonical, sampler
        self._bracket, self._seed = bracket, seed
        self._seen: set[str] = set()
        self._wave: list[int] = []
        self._asked = 0
        with _quiet() as optuna:
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend

            path = folder / JOURNAL
            _mend(path, len(space.dimensions))
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                study_name=STUDY,
                directions=["maximize" if goal == "quality" else "minimize" for goal in goals],
                load_if_exists=True,
            )
            self._known = self._study.get_trials(deepcopy=False)

    def wave(self, count: int) -> list[Recipe]:
        """See `Proposer`; what the study was asked before, it says again."""
        found: list[Recipe] = []
        self._wave, tries = [], 0
        while len(found) < count and tries < _TRIES:
            number, values = self._next()
            recipe = self._canonical(values)
            digest = digest_of(dict(recipe))
            if digest in self._seen:
                tries += 1
                self._end(number, None)
                continue
            tries = 0
            self._seen.add(digest)
            self._wave.append(number)
            found.append(recipe)
        return found

    def tell(self, values: Sequence[Sequence[float] | None]) -> None:
        """See `Proposer`."""
        for number, each in zip(self._wave, values, strict=True):
            self._end(number, each)

    def _next(self) -> tuple[int, dict[str, Value]]:
        """The next proposal, of those that there are or a new one, with its number in the study."""
        names = set(self._space.dimensions)
        while self._known:
            trial = self._known.pop(0)
            assert set(trial.params) == names  # see `_mend`
            self._asked += 1
            return trial.number, {name: _told(trial.params[name]) for name in self._space.dimensions}
        with _quiet():
            self._study.sampler = self._sampler()
            trial = self._study.ask()
            values = {name: _told(self._suggested(trial, name)) for name in self._space.dimensions}
        self._asked += 1
        return trial.number, values

    def _suggested(self, trial: optuna.Trial, name: str) -> Value:
        each = self._space.dimensions[name]
        if isinstance(each, Choices):
            found: Any = trial.suggest_categorical(name, each.values)
            return found  # type: ignore[no-any-return]
        if each.whole:
            return trial.suggest_int(name, int(each.low), int(each.high), step=int(each.step or 1), log=each.log)
        return trial.suggest_float(name, each.low, each.high, step=each.step, log=each.log)

    def _sampler(self) -> optuna.samplers.BaseSampler:
        from optuna import samplers

        if self._asked < len(self._first):
            return samplers.PartialFixedSampler(dict(self._first[self._asked]), samplers.RandomSampler(seed=self._seed))
        seed = int(hashlib.sha256(f"{self._seed}:{self._asked}".encode()).hexdigest()[:8], 16)
        if self._kind == "nsga2":
            return samplers.NSGAIISampler(population_size=max(2, self._bracket), seed=seed)
        if self._kind == "random":
            return samplers.RandomSampler(seed=seed)
        return samplers.TPESampler(n_startup_trials=self._bracket, seed=seed)

    def _end(self, number: int, values: Sequence[float] | None) -> None:
        """Tell the study, unless it was told before."""
        from optuna.trial import TrialState

        with _quiet():
            if values is None:
                self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            else:
                self._study.tell(number, list(values), skip_if_finished=True)


def _told(value: Value) -> Value:
    """A number as somebody would write it: six digits say enough."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def importance(
    space: Space, recipes: Sequence[Recipe], values: Sequence[float], *, rises: bool = False
) -> dict[str, float]:
    """How much of what is good hangs on which setting, by PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255).

    Args:
        space: What varies.
        recipes: Of trials; a setting that one does not have counts as its first choice.
        values: Of each.
        rises: The more the better.

    Returns:
        Shares that sum up to 1, the largest first; empty where nothing can be said: few trials, or all alike.
    """
    names = [name for name, each in space.dimensions.items() if not isinstance(each, Choices) or len(each.values) > 1]
    if len(values) < 2 * len(names) or len(set(values)) < 3 or len(names) < 2:
        return {}
    with _quiet() as optuna:
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        study = optuna.create_study(direction="maximize" if rises else "minimize")
        kinds = {name: _distribution(space.dimensions[name]) for name in names}
        for recipe, value in zip(recipes, values, strict=True):
            params = {name: recipe.get(name, space.dimensions[name].ends()[0]) for name in names}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=value))
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(evaluate_on_local=False))
    total = sum(found.values())
    return {name: round(each / total, 4) for name, each in found.items()} if total > 0 else {}


def _distribution(dimension: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    if dimension.whole:
        return IntDistribution(dimension.low, dimension.high, log=dimension.log, step=int(dimension.step or 1))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Optuna, which says nothing of each trial meanwhile, and nothing of what may change in it one day."""
    import warnings

    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield optuna
    finally:
        optuna.logging.set_verbosity(before)


_TRIAL, _PARAM = 4, 5
"""Lines of a journal that begin a trial, and that tell one of its values: ``op_code`` of Optuna's format."""


def _mend(path: Path, values: int) -> None:
    """Take away what a killed process left in a journal: half a line, half a proposal at its end, and its lock.

    A proposal that is not whole is taken back, so that it is drawn anew from the same past.

    Nobody else writes it: the folder of the search is held (`edgespa.api.searching`).
    """
    lock = path.with_name(path.name + ".lock")
    if lock.is_symlink() or lock.exists():
        lock.unlink()
    if not path.is_file():
        return
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    codes = [json.loads(line)["op_code"] for line in lines]
    begun = max((place for place, code in enumerate(codes) if code == _TRIAL), default=len(lines))
    if codes[begun:].count(_PARAM) < values:
        lines = lines[:begun]
    length = sum(map(len, lines))
    if length < len(content):
        with path.open("r+b") as stream:
            stream.truncate(length)
