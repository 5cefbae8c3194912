"""What a profile measures, and how: what its caller may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgespa.device.providers import for_format
from edgespa.device.runner.cores import cores_text
from edgespa.device.runner.runtimes import RUNTIMES
from edgespa.errors import ConfigError

FLOAT = "fp32"
ARITHMETICS = (FLOAT, "bf16", "fp16")
"""In which layers in float32 may be computed."""
ALL = "all"
"""The runtimes that are there."""
_MIN_SAMPLE_S, _SAMPLES = 1.0, 300


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        variants: Names to measure; None means every one whose runtime is there. A name must be in the bundle; of a
            bundle to compare with those are measured that it has.
        threads: Numbers of threads, each measured by itself.
        tune: In their place as many as the device has cores, and halves of that down to one; and where some cores are
            faster, on those alone, too.
        runtimes: Each measured by itself, by the names of their packages; ``all`` that are there; none for the usual
            one of each format.
        arithmetics: In which numbers float32 is computed: ``fp32``, ``bf16``, ``fp16``, as far as a runtime can there;
            none for all where ``runtimes`` are named, else for float32.
        providers: What computes, each measured by itself, see `edgespa.device.providers`; none for the CPU.
        runs: At most so many inferences per process; None means 200, or no limit where a time is given.
        seconds: Stop after so long per process (and at least 10 inferences).
        duration: Likewise, and the sensors are read meanwhile.
        cooldown: Before each process, wait until the device is as cool as at the beginning, at most so many seconds.
        rounds: How often every measurement is repeated, in a fresh process.
        trust: The bundles' own run.py measures them, whoever wrote it.
        power_mode: That a Jetson has to be in; None for any.
        fixed_clocks: The clocks of its cores have to be held where they are.
        by_layer: What each operator of a file takes, too, in a session of its own behind the runs.
    """

    variants: Sequence[str] | None = None
    threads: Sequence[int] = (1,)
    tune: bool = False
    runtimes: Sequence[str] = ()
    arithmetics: Sequence[str] = ()
    providers: Sequence[str] = ()
    runs: int | None = None
    seconds: float | None = None
    duration: float | None = None
    cooldown: float | None = None
    rounds: int = 1
    trust: bool = False
    power_mode: str | None = None
    fixed_clocks: bool = False
    by_layer: bool = False

    def check(self) -> None:
        """Refuse numbers that are out of range.

        Raises:
            ConfigError: One is.
        """
        for name, smallest in (("rounds", self.rounds), ("threads", min(self.threads, default=0)), ("runs", self.runs)):
            if smallest is not None and smallest < 1:
                raise ConfigError(f"{name} must be at least 1, not {smallest}")
        for name in ("seconds", "duration", "cooldown"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be positive, not {value}")
        if self.seconds is not None and self.duration is not None:
            raise ConfigError("seconds and duration exclude each other", "duration reads the sensors meanwhile")
        for_format("onnx", self.providers)
        known = [each.name for each in RUNTIMES]
        if unknown := [name for name in self.runtimes if name not in (ALL, *known)]:
            raise ConfigError(f"there is no runtime '{unknown[0]}'", f"write one of {', '.join(known)}, or {ALL}")
        if unknown := [name for name in self.arithmetics if name not in ARITHMETICS]:
            raise ConfigError(f"there is no arithmetic '{unknown[0]}'", f"write one of {', '.join(ARITHMETICS)}")

    def ways(self, cores: int | None, fast: Sequence[int] = ()) -> list[tuple[int, str | None]]:
        """Numbers of threads, each with the cores that it is bound to (``4-7``); None for any.

        Args:
            cores: That a process may use there; None where that is not known.
            fast: Those that are faster than others.
        """
        if not self.tune:
            return [(count, None) for count in dict.fromkeys(self.threads)]
        bound = cores_text(fast) if fast else None
        return [
            *((count, None) for count in halves(cores or 1)),
            *((count, bound) for count in (halves(len(fast)) if bound else ())),
        ]

    def options(self) -> list[str]:
        """Of the runner, the same for all measurements."""
        seconds = self.duration if self.duration is not None else self.seconds
        options = [] if self.runs is None else ["--runs", str(self.runs)]
        options += [] if seconds is None else ["--seconds", str(seconds)]
        return options + (["--by-layer"] if self.by_layer else [])

    @property
    def sample_s(self) -> float | None:
        """How often the sensors are read while a process runs."""
        return None if self.duration is None else max(_MIN_SAMPLE_S, self.duration / _SAMPLES)


def halves(count: int) -> list[int]:
    """A number, its half, and so on down to one; the smallest first."""
    found = [count]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return found[::-1]
