"""What the agent reads, from file trees as the boards have them (written from the documented formats)."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespa.device.agent import read_conditions, read_facts
from edgespa.device.agent.system import System, quick
from edgespa.device.host import Conditions, Facts

PI_4 = {
    "get_throttled": "throttled=0x50000\n",
    "measure_clock arm": "frequency(48)=1500345728\n",
}
PI_5 = {
    "get_throttled": "throttled=0x0\n",
    "measure_clock arm": "frequency(0)=2400033792\n",
    "pmic_read_adc": (
        "   3V7_WL_SW_A current(0)=0.09368000A\n"
        "     VDD_CORE_A current(7)=1.25000000A\n"
        "  3V7_WL_SW_V volt(8)=3.70000000V\n"
        "     VDD_CORE_V volt(15)=0.80000000V\n"
        "      EXT5V_V volt(24)=5.14500000V\n"
    ),
}


def put(path: Path, text: str | int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def conditions(root: Path, programs: dict[str, str] | None = None) -> Conditions:
    def run(argv: list[str]) -> str | None:
        return (programs or {}).get(" ".join(argv[1:])) if argv[0] in ("vcgencmd", "nvpmodel") else None

    return Conditions.of(read_conditions(System(root / "proc", root / "sys", root / "etc", run)))


def facts(root: Path) -> Facts:
    return Facts.parse(read_facts(root / "home/pi/.local", System(root / "proc", root / "sys", root / "etc")), "test")


def test_a_board_is_described_by_its_own_name(tmp_path: Path) -> None:
    put(tmp_path / "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\x00")
    put(tmp_path / "proc/cpuinfo", "processor : 0\nmodel name : else\nFeatures : fp asimd evtstrm crc32 cpuid")
    put(tmp_path / "proc/meminfo", "MemTotal: 3884364 kB\nMemAvailable: 3000000 kB\nSwapTotal: 102396 kB")
    put(tmp_path / "etc/os-release", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian')
    found = facts(tmp_path)
    assert found.cpu_model == "Raspberry Pi 4 Model B Rev 1.4"
    assert (found.memory_kib, found.memory_available_kib, found.swap_kib) == (3884364, 3000000, 102396)
    assert found.distribution == "Debian GNU/Linux 12 (bookworm)"
    assert found.cpu_features == ("asimd",)
    assert found.logical_cores is not None
    assert found.free_bytes > 0  # of the nearest folder that is there
    assert found.environment is None
    # What a profile records has no paths in it.
    assert not {"folder", "python_path"} & set(found.host().model_dump())


def test_a_pc_is_described_by_its_processor(tmp_path: Path) -> None:
    put(tmp_path / "proc/cpuinfo", "processor\t: 0\nmodel name\t: First: CPU @ 2 GHz\n\nmodel name\t: Second")
    assert facts(tmp_path).cpu_model == "First: CPU @ 2 GHz"


@pytest.mark.parametrize(
    ("speeds", "fast"),
    [
        ({0: 446, 1: 446, 2: 1024, 3: 1024}, [2, 3]),
        ({0: 250, 1: 1024, 2: 1000, 3: 700}, [1, 2]),  # cores of one kind differ a little
        ({0: 1024, 1: 1024, 2: 1024, 3: 1024}, []),
        ({0: 1024, 1: 1000, 2: 980, 3: 1024}, []),
        ({0: 446, 1: 1024}, []),  # of two others it is not known
    ],
)
@pytest.mark.parametrize("name", ["cpu_capacity", "cpufreq/cpuinfo_max_freq"])
def test_cores_that_are_faster_than_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, speeds: dict[int, int], fast: list[int]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    for core, speed in speeds.items():
        put(tmp_path / f"sys/devices/system/cpu/cpu{core}/{name}", speed)
    assert list(facts(tmp_path).fast_cores) == fast


def test_only_cores_that_may_be_used_are_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for core, speed in enumerate((446, 446, 1024, 1024)):
        put(tmp_path / f"sys/devices/system/cpu/cpu{core}/cpu_capacity", speed)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 3})
    assert list(facts(tmp_path).fast_cores) == [3]
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert list(facts(tmp_path).fast_cores) == []


def test_clocks_that_are_held(tmp_path: Path) -> None:
    assert conditions(tmp_path).fixed_clocks is None
    cpu = tmp_path / "sys/devices/system/cpu"
    for core in (0, 1):
        put(cpu / f"cpu{core}/cpufreq/scaling_governor", "schedutil")
        put(cpu / f"cpu{core}/cpufreq/scaling_min_freq", 729600)
        put(cpu / f"cpu{core}/cpufreq/scaling_max_freq", 1510400)
    assert conditions(tmp_path).fixed_clocks is False
    put(cpu / "cpu0/cpufreq/scaling_min_freq", 1510400)  # as jetson_clocks does it, to all
    assert conditions(tmp_path).fixed_clocks is False
    put(cpu / "cpu1/cpufreq/scaling_governor", "performance")
    assert conditions(tmp_path).fixed_clocks is True
    (cpu / "cpu0/cpufreq/scaling_max_freq").unlink()
    assert conditions(tmp_path).fixed_clocks is None


def test_a_jetson_says_its_release(tmp_path: Path) -> None:
    put(tmp_path / "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64")
    assert str(facts(tmp_path).board_software).startswith("R36 (release), REVISION: 4.3")


def test_any_linux(tmp_path: Path) -> None:
    cpu = tmp_path / "sys/devices/system/cpu"
    put(cpu / "cpu0/cpufreq/scaling_governor", "ondemand")
    for name, khz in (("scaling_cur_freq", 1500000), ("scaling_max_freq", 1200000), ("cpuinfo_max_freq", 1800000)):
        put(cpu / f"cpu0/cpufreq/{name}", khz)
    for number in (0, 1):
        put(cpu / f"cpu{number}/thermal_throttle/core_throttle_count", 3 + number)
    thermal = tmp_path / "sys/class/thermal"
    for number, (kind, temperature) in enumerate([("cpu", "48312"), ("cpu", "-1000"), ("gpu", ""), ("odd", "n/a")]):
        put(thermal / f"thermal_zone{number}/type", kind)
        put(thermal / f"thermal_zone{number}/temp", temperature)
    devices = [
        ("cpufreq-cpu0", 2),
        ("pwm-fan", 3),
        ("Processor", 0),
        ("intel_powerclamp", -1),
        ("gpu-throttle-alert", 1),
    ]
    for number, (kind, state) in enumerate(devices):
        put(thermal / f"cooling_device{number}/type", kind)
        put(thermal / f"cooling_device{number}/cur_state", state)
    put(tmp_path / "proc/vmstat", "nr_free_pages 1\npswpin 10\npswpout 7")
    put(tmp_path / "proc/meminfo", "SwapTotal: 1000 kB\nSwapFree: 400 kB\nMemAvailable: 9 kB")
    found = conditions(tmp_path)
    assert (found.governor, found.frequency_khz) == ("ondemand", 1500000)
    assert (found.frequency_limit_khz, found.frequency_max_khz) == (1200000, 1800000)
    assert found.temperature_c == {"cpu": 48.312, "cpu (thermal_zone1)": -1.0}
    assert found.slowed_by == {"cpufreq-cpu0 (cooling_device0)": 2, "gpu-throttle-alert (cooling_device4)": 1}
    assert found.throttle_counts == {"cores": 7}
    assert (found.swapped_pages, found.swap_used_kib, found.memory_available_kib) == (17, 600, 9)
    assert set(found.sensors()) == {"temperature", "clock", "throttling", "swapping"}


def test_a_raspberry_pi_4(tmp_path: Path) -> None:
    found = conditions(tmp_path, PI_4)
    assert found.pi_throttled == 0x50000
    assert found.arm_clock_khz == 1500345
    assert found.power_mw == {}


def test_a_raspberry_pi_5_says_its_power(tmp_path: Path) -> None:
    found = conditions(tmp_path, PI_5)
    assert (found.pi_throttled, found.arm_clock_khz) == (0, 2400033)
    assert found.power_mw == pytest.approx({"3V7_WL_SW": 346.616, "VDD_CORE": 1000.0})


def test_a_raspberry_pi_without_vcgencmd(tmp_path: Path) -> None:
    put(tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled", "50005")
    assert conditions(tmp_path).pi_throttled == 0x50005


def test_a_jetson_orin(tmp_path: Path) -> None:
    rails = tmp_path / "sys/bus/i2c/devices/1-0040/hwmon/hwmon1"
    for number, (name, volts, amperes) in enumerate([("VDD_IN", 5072, 1024), ("VDD_CPU_GPU_CV", 5040, 200)], 1):
        put(rails / f"in{number}_label", name)
        put(rails / f"in{number}_input", volts)
        put(rails / f"curr{number}_input", amperes)
    put(rails / "in7_label", "sum of shunt voltages")  # has no current
    put(tmp_path / "sys/class/hwmon/hwmon1/oc1_event_cnt", 4)
    gpu = tmp_path / "sys/class/devfreq/17000000.gpu"
    for name, value in (("cur_freq", 306000000), ("max_freq", 624750000), ("device/load", 437)):
        put(gpu / name, value)
    put(tmp_path / "etc/nvpmodel.conf", "x")
    found = conditions(tmp_path, {"-q": "NV Fan Mode:quiet\nNV Power Mode: 15W\n0\n"})
    assert found.power_mw == pytest.approx({"VDD_IN": 5193.728, "VDD_CPU_GPU_CV": 1008.0})
    gpu_figures = {"frequency_khz": 306000, "frequency_limit_khz": 624750, "load_percent": 43}
    assert found.devfreq == {"17000000.gpu": gpu_figures}
    assert found.throttle_counts == {"oc1": 4}
    assert found.power_mode == "15W"


def test_a_jetson_nano_of_jetpack_4(tmp_path: Path) -> None:
    rails = tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    for number, (name, power) in enumerate([("POM_5V_IN", 2100), ("POM_5V_GPU", 40)]):
        put(rails / f"rail_name_{number}", name)
        put(rails / f"in_power{number}_input", power)
    assert conditions(tmp_path).power_mw == {"POM_5V_IN": 2100.0, "POM_5V_GPU": 40.0}


def test_a_machine_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    found = conditions(tmp_path / "nowhere")
    assert found.sensors() == ()
    assert facts(tmp_path / "nowhere").memory_kib is None


def test_programs_that_fail_or_hang_say_nothing() -> None:
    assert quick(["false"]) is None
    assert quick(["/no/such/program"]) is None
    assert quick(["sleep", "30"], timeout_s=0.2) is None
    assert quick(["echo", "yes"]) == "yes\n"
