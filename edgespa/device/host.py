"""Facts about the machine that measures: what it is, and what state it is in.

They are read on the machine itself by the agent (`edgespa.device.agent.facts` and `edgespa.device.agent.sensors`), this
one or another; here is what they mean. Everything is optional but what Python itself knows. Host names and paths are
not recorded in profiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from edgespa.config import Strict


class Host(Strict):
    """What the machine is.

    Attributes:
        system: Operating system and its release.
        distribution: Its name for people.
        board_software: A Jetson's L4T release.
        machine: Instruction set, for example ``"x86_64"`` or ``"aarch64"``.
        bits: Of the programs that run there; a 64-bit kernel may have a 32-bit system above it.
        cpu_model: The processor's name, or the board's.
        cpu_features: Extensions of the instruction set that matter here.
        logical_cores: Cores that the system shows.
        affinity: Cores that a process may use.
        fast_cores: The numbers of those that are faster than others; none where all are alike.
        memory_kib: Memory of the machine.
        swap_kib: Swap.
        python: Version of the Python that was found there.
        glibc: Version of the C library; None for another one.
    """

    system: str
    distribution: str | None = None
    board_software: str | None = None
    machine: str
    bits: int | None = None
    cpu_model: str | None
    cpu_features: tuple[str, ...] = ()
    logical_cores: int | None
    affinity: int | None
    fast_cores: tuple[int, ...] = ()
    memory_kib: int | None
    swap_kib: int | None = None
    python: str | None = None
    glibc: str | None = None


class Facts(Host):
    """What else there is to know before something is put there; not recorded in profiles.

    Attributes:
        memory_available_kib: Memory that can be had without swapping.
        python_path: The Python that was found.
        python_implementation: ``CPython`` is needed.
        can_make_venv: Whether its ``venv`` and ``ensurepip`` are there.
        ssh_keygen: Whether signatures can be checked there.
        folder: Where edgespa keeps things.
        folder_writable: Whether it may.
        free_bytes: Space there.
        environment: What `edgespa.device.provision.setup` has left there; None if nothing.
    """

    memory_available_kib: int | None
    python_path: str
    python_implementation: str
    can_make_venv: bool
    ssh_keygen: bool
    folder: str
    folder_writable: bool
    free_bytes: int
    environment: dict[str, Any] | None = None

    def host(self) -> Host:
        """What is recorded."""
        return Host.model_validate(self.model_dump(include=set(Host.model_fields)))


class Quota(Strict):
    """What quotas on a process's control groups have done since those were made.

    Attributes:
        periods: In so many periods, of 100 ms mostly, a quota was used up.
        held_ms: And the process was held for so long, over all cores.
        cores: The smallest quota, in cores; None where there is none.
    """

    periods: float
    held_ms: float
    cores: float | None = None


class Clock(Strict):
    """The clock of the core that a process was on, while it ran.

    Attributes:
        khz: At equal distances in time.
        limit_khz: The lowest that it might go up to.
        max_khz: What the processor could go up to.
        base_khz: What it can hold on all cores, where it says so.
        boosts: Whether ``max_khz`` is a clock that it holds for moments only.
        governor: That chooses the clock.
        driver: That sets it.
    """

    khz: tuple[int, ...]
    limit_khz: int | None = None
    max_khz: int | None = None
    base_khz: int | None = None
    boosts: bool = False
    governor: str | None = None
    driver: str | None = None


class Usage(Strict):
    """Who used the cores that a process might use, while it ran.

    Attributes:
        seconds: It ran.
        own_s: Processor time of the process.
        others_s: Of all else; None where that is not known.
        stolen_s: Taken by a hypervisor.
        cores: So many the process might use.
    """

    seconds: float
    own_s: float
    others_s: float | None = None
    stolen_s: float | None = None
    cores: int | None = None


class Conditions(Strict):
    """The state of the machine at one moment; figures that the machine does not give are None or not there.

    Attributes:
        at_s: Seconds after the beginning of the measurement; None for the states before and after it.
        load_average: Over 1, 5 and 15 minutes, in runnable processes.
        governor: Frequency governor of the first core.
        frequency_khz: Current frequency of the first core, as was asked for.
        frequency_limit_khz: What it may go up to now.
        frequency_max_khz: What it could go up to.
        arm_clock_khz: The clock that a Raspberry Pi's firmware really gives.
        temperature_c: Degrees Celsius by thermal zone.
        slowed_by: Cooling devices that slow a processor down, and how much, in steps of their own.
        throttle_counts: Counters that go up when the hardware throttles.
        pi_throttled: A Raspberry Pi's bits; see `edgespa.device.measure.judge`.
        power_mw: Power by rail.
        devfreq: Of each device with a clock of its own (GPU, memory): clock, limit in kHz, load in per cent.
        power_mode: A Jetson's.
        fixed_clocks: Whether every core's clock is held where it is; None where that cannot be read.
        swapped_pages: Pages swapped in and out since it was started.
        swap_used_kib: Swap in use.
        memory_available_kib: Memory that can be had without swapping.
        quota: What quotas have done so far; None where that cannot be read.
        unread: What is needed to call a measurement clean and could not be read, and why.
    """

    at_s: float | None = None
    load_average: tuple[float, float, float] | None
    governor: str | None
    frequency_khz: int | None
    frequency_limit_khz: int | None = None
    frequency_max_khz: int | None = None
    arm_clock_khz: int | None = None
    temperature_c: dict[str, float]
    slowed_by: dict[str, int] = Field(default_factory=dict)
    throttle_counts: dict[str, int] = Field(default_factory=dict)
    pi_throttled: int | None = None
    power_mw: dict[str, float] = Field(default_factory=dict)
    devfreq: dict[str, dict[str, int]] = Field(default_factory=dict)
    power_mode: str | None = None
    fixed_clocks: bool | None = None
    swapped_pages: int | None = None
    swap_used_kib: int | None = None
    memory_available_kib: int | None = None
    quota: Quota | None = None
    unread: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """From what the agent answers."""
        return cls.parse(answer, "the device's sensors")

    def sensors(self) -> tuple[str, ...]:
        """What this machine can say of itself, in words."""
        there = {
            "temperature": self.temperature_c,
            "clock": self.frequency_khz or self.arm_clock_khz,
            "throttling": self.pi_throttled is not None or self.throttle_counts,
            "power": self.power_mw,
            "GPU": self.devfreq,
            "swapping": self.swapped_pages is not None or self.swap_used_kib is not None,
        }
        return tuple(name for name, value in there.items() if value)
