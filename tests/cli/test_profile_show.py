"""What a profile looks like on the screen, with everything that a board can say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgespa.api.results import Profile as Measured
from edgespa.cli._profile import remark, show, show_fleet
from edgespa.device import load_device
from edgespa.device.fleet import Outcome
from edgespa.device.host import Conditions, Host
from edgespa.device.measure.results import Estimate, Measurement, Profile, VariantProfile
from edgespa.errors import DeviceError

HOST = Host(
    system="Linux", machine="aarch64", cpu_model="Raspberry Pi 5", logical_cores=4, affinity=4, memory_kib=4 << 20
)
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def state(celsius: float = 45.0, **changes: Any) -> Conditions:
    values: dict[str, Any] = {
        "load_average": (0.1, 0.1, 0.1),
        "governor": "ondemand",
        "frequency_khz": 2_400_000,
        "arm_clock_khz": 2_400_033,
        "temperature_c": {"cpu-thermal": celsius},
        "pi_throttled": 0,
        "power_mw": {"VDD_CORE": 1000.0, "3V7_WL_SW": 346.6},
    }
    return Conditions.model_validate({**values, **changes})


def result(variant: str = "onnx-fp32", provider: str = CPU, p50: float = 12.3456, **changes: Any) -> VariantProfile:
    values: dict[str, Any] = {name: 1 for name, field in Measurement.model_fields.items() if field.is_required()}
    words = ("file", "sha256", "runtime", "python", "machine")
    values |= {**dict.fromkeys(words, "x"), "variant": variant, "provider": provider, "p50_ms": p50, "p90_ms": p50}
    values |= {"steady": True, "before": state(45.0), "after": state(61.5), "peak_run_kib": 65_000}
    return VariantProfile.of("bundle", [Measurement.model_validate({**values, **changes})])


def profile(*results: VariantProfile, **changes: Any) -> Profile:
    values: dict[str, Any] = {
        "created": "2026-11-21T02:30:01.250+00:00",
        "device": "kitchen",
        "host": HOST,
        "before": state(),
        "after": state(),
        "rounds": 1,
        "bundle": "bundle",
        "against": None,
        "results": results,
        "ratios": (),
        "skipped": (),
        "bytes_sent": 1234567,
    }
    return Profile.model_validate({**values, **changes})


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_everything_fits_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("onnx-fp32", "tflite-int8-weights")
    results = [result(name, provider, 123.456) for name in names for provider in (CPU, CUDA)]
    estimates = tuple(Estimate(variant=name, threads=1, latency_ms=100.0) for name in names)
    show(profile(*results, estimates=estimates, emulated=True), titled=False)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "on kitchen (EMULATED)" in text
    assert "1,234,567 bytes sent" in text
    found = rows(text)
    assert ["onnx-fp32", "1", "CUDA", "1.00", "1.00", "123", "123", "1.00", "1.00"] in found
    # The machine: from 45 to 61.5 degrees, 2400 MHz, 1.35 W.
    assert ["onnx-fp32", "1", "CPU", "45", "-", "62", "2400", "1.35", "yes", "yes"] in found


def test_an_estimate_is_marked_and_of_the_cpu_only(capsys: pytest.CaptureFixture[str]) -> None:
    estimates = (Estimate(variant="onnx-fp32", threads=1, latency_ms=10.0),)
    show(profile(result(p50=25.0), result(provider=CUDA, p50=2.0), estimates=estimates), titled=False)
    text = capsys.readouterr().out
    part = text[text.index("Beside an estimate") :]
    assert "ESTIMATE" in part
    assert ["onnx-fp32", "1", "25.0", "10.0", "2.50"] in rows(part)
    assert "2.00" not in part
    show(profile(result()), titled=False)
    assert "ESTIMATE" not in capsys.readouterr().out


def test_what_is_not_clean_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    hot = result(doubts=("under-voltage",), steady=False)
    found = profile(hot)
    assert not found.clean
    show(found, titled=False)
    remark(found)
    out, err = capsys.readouterr()
    assert [row[-2:] for row in rows(out) if row[-2:] == ["no", "NO"]] == [["no", "NO"]]
    assert "NOT CLEAN: kitchen: bundle: onnx-fp32, 1 thread: under-voltage" in err
    assert "latency was still changing" in err
    remark(profile(result()))
    assert capsys.readouterr().err == ""


def test_a_board_that_does_not_say_whether_it_is_throttled(capsys: pytest.CaptureFixture[str]) -> None:
    remark(profile(result(), emulated=True))
    assert "its times mean nothing" in capsys.readouterr().err
    remark(profile(result(unknown=("throttling: no counter and no cooling device tells of it",))))
    assert "kitchen: not known: throttling: no counter" in capsys.readouterr().err


def of(found: Profile) -> Measured:
    """As the public call gives it."""
    return Measured(Path("bundle"), found)


def test_several_devices_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    devices = [load_device(name) for name in ("pi-4b", "pi-5", "jetson-nano")]
    outcomes = (
        Outcome(devices[0], of(profile(result(p50=93.0), result("onnx-int8", p50=50.0), device="pi-4b")), None),
        Outcome(devices[1], of(profile(result(p50=16.4), device="pi-5")), None),
        Outcome(devices[2], None, DeviceError("away")),
    )
    show_fleet(outcomes)
    text = capsys.readouterr().out
    assert ["variant", "threads", "pi-4b", "pi-5", "jetson-nano"] in rows(text)
    assert ["onnx-fp32", "1", "93.0", "16.4", "failed"] in rows(text)
    assert ["onnx-int8", "1", "50.0", "-", "failed"] in rows(text)
    show_fleet((Outcome(devices[0], of(profile(result(), result(provider=CUDA), device="pi-4b")), None),))
    assert ["variant", "threads", "on", "pi-4b"] in rows(capsys.readouterr().out)


def test_what_could_not_be_looked_at_is_not_called_clean(capsys: pytest.CaptureFixture[str]) -> None:
    why = "throttling: vcgencmd may not be asked: add its user to group video (sudo usermod -aG video USER)"
    unsure = result(unknown=(why,))
    assert (result().clean, unsure.clean, result(unknown=(why,), doubts=("x",)).clean) == (True, None, False)
    found = profile(unsure, result("onnx-int8"))
    assert found.clean is None
    show(found, titled=True)
    remark(found)
    said = capsys.readouterr()
    assert [line.split()[-1] for line in said.out.splitlines() if "onnx" in line][-2:] == ["?", "yes"]
    assert said.err.count(f"note: kitchen: not known: {why}") == 1
