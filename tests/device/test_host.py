from __future__ import annotations

from pathlib import Path

from edgespa.device.host import read_conditions, read_host


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_board_is_described_by_its_own_name(tmp_path: Path) -> None:
    put(tmp_path / "device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\x00")
    put(tmp_path / "cpuinfo", "processor : 0\nmodel name : something else\n")
    put(tmp_path / "meminfo", "MemTotal:        3884364 kB\nMemFree:  1 kB\n")
    host = read_host(tmp_path)
    assert host.cpu_model == "Raspberry Pi 4 Model B Rev 1.4"
    assert host.memory_kib == 3884364
    assert host.logical_cores
    assert host.logical_cores >= 1


def test_a_pc_is_described_by_its_processor(tmp_path: Path) -> None:
    put(tmp_path / "cpuinfo", "processor\t: 0\nmodel name\t: First: CPU @ 2 GHz\n\nmodel name\t: Second\n")
    assert read_host(tmp_path).cpu_model == "First: CPU @ 2 GHz"


def test_conditions(tmp_path: Path) -> None:
    put(tmp_path / "devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand\n")
    put(tmp_path / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1500000\n")
    for number, (kind, temperature) in enumerate([("cpu", "48312"), ("cpu", "-1000"), ("gpu", ""), ("odd", "n/a")]):
        put(tmp_path / f"class/thermal/thermal_zone{number}/type", f"{kind}\n")
        put(tmp_path / f"class/thermal/thermal_zone{number}/temp", f"{temperature}\n")
    conditions = read_conditions(tmp_path)
    assert (conditions.governor, conditions.frequency_khz) == ("ondemand", 1500000)
    assert conditions.temperature_c == {"cpu": 48.312, "cpu (thermal_zone1)": -1.0}


def test_a_machine_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    conditions = read_conditions(tmp_path / "nowhere")
    assert (conditions.governor, conditions.frequency_khz, conditions.temperature_c) == (None, None, {})
    assert read_host(tmp_path / "nowhere").memory_kib is None
