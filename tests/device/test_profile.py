from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from edgespa.device import connect, load_device
from edgespa.device.measure.answers import is_own_runner, parse_answer, run_selfcheck
from edgespa.device.measure.profile import profile as profile_on
from edgespa.device.measure.profile import profile_local
from edgespa.device.measure.results import Listed, Measurement, Profile, VariantProfile
from edgespa.device.measure.saved import save_profile
from edgespa.device.measure.settings import Settings
from edgespa.errors import BundleError, ConfigError, DeviceError


def measurement(**changes: Any) -> Measurement:
    values: dict[str, Any] = {name: 1 for name, field in Measurement.model_fields.items() if field.is_required()}
    words = ("variant", "file", "sha256", "runtime", "provider", "python", "machine")
    return Measurement.model_validate({**values, **dict.fromkeys(words, "x"), **changes})


def test_rounds_are_summarised_by_hand() -> None:
    rounds = [
        measurement(p50_ms=p50, p90_ms=p50 + 1, p95_ms=p95, p99_ms=None, peak_run_kib=peak)
        for p50, p95, peak in ((10.0, 20.0, 100), (30.0, 22.0, 300), (11.0, 21.0, None))
    ]
    result = VariantProfile.of("b", rounds)
    assert (result.p50_ms, result.p90_ms, result.p95_ms, result.p99_ms) == (11, 12, 21, None)
    assert result.spread == pytest.approx(20 / 11)
    assert result.peak_kib == 300
    assert VariantProfile.of("b", rounds[:1]).spread is None


def test_a_percentile_that_one_round_lacks_is_not_given() -> None:
    rounds = [measurement(p95_ms=5.0), measurement(p95_ms=None)]
    assert VariantProfile.of("b", rounds).p95_ms is None


@pytest.mark.more
def test_every_variant_at_every_number_of_threads(full_bundle: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    profile = profile_local(
        full_bundle,
        threads=(1, 2, 1),
        runs=12,
        rounds=2,
        progress=lambda done, total, text: steps.append((done, total, text)),
    )
    keys = [(each.bundle, each.variant, each.threads) for each in profile.results]
    assert keys == [("full", name, count) for name in ("onnx-fp32", "tflite-fp32") for count in (1, 2)]
    for result in profile.results:
        assert [each.runs for each in result.rounds] == [12, 12]
        assert all(each.threads == result.threads for each in result.rounds)
        assert 0 < result.min_ms <= result.p50_ms <= result.p90_ms
        assert result.p95_ms is None
        assert result.spread is not None
    assert [step[:2] for step in steps] == [(done, 8) for done in range(9)]
    # The second round goes backwards.
    assert [text for _, _, text in steps[:4]] == [text for _, _, text in steps[7:3:-1]]
    assert profile.ratios == ()
    assert profile.against is None
    assert profile.result("full", "tflite-fp32", 2) is profile.results[3]
    with pytest.raises(DeviceError, match="was not measured with 4 threads"):
        profile.result("full", "tflite-fp32", 4)


@pytest.mark.more
def test_two_bundles_are_measured_in_alternation(full_bundle: Path, bundle: Path) -> None:
    texts: list[str] = []
    profile = profile_local(
        full_bundle, against=bundle, runs=20, rounds=3, progress=lambda done, total, text: texts.append(text)
    )
    pair = ["full: onnx-fp32, 1 thread", "good: onnx-fp32, 1 thread"]
    assert texts[:3] == [*pair, "full: tflite-fp32, 1 thread"]
    assert texts[3:6] == texts[2::-1]
    assert (profile.bundle, profile.against) == ("full", "good")
    assert len(profile.results) == 3
    (ratio,) = profile.ratios
    here, there = (profile.result(name, "onnx-fp32").rounds for name in ("full", "good"))
    values = sorted(a.p50_ms / b.p50_ms for a, b in zip(here, there, strict=True))
    assert (ratio.variant, ratio.threads) == ("onnx-fp32", 1)
    assert (ratio.low, ratio.ratio, ratio.high) == tuple(values)


def test_bundles_of_one_name_are_told_apart(make_bundle: Any, tmp_path: Path, bundle: Path) -> None:
    model = (bundle / "model.onnx").read_bytes()
    one, two = (make_bundle(tmp_path / name / "bundle", onnx=model) for name in ("a", "b"))
    profile = profile_local(one, against=two, runs=10)
    assert (profile.bundle, profile.against) == ("a/bundle", "b/bundle")


def test_a_damaged_bundle_is_not_run(make_bundle: Any, tmp_path: Path, bundle: Path) -> None:
    runner = f"open({str(tmp_path / 'was-run')!r}, 'w')\n"
    bad = make_bundle(tmp_path / "bad", onnx=b"", runner=runner)
    (bad / "labels.txt").write_text("changed\n")
    for arguments in ({"bundle": bad}, {"bundle": bundle, "against": bad}):
        with pytest.raises(BundleError, match=r"labels\.txt"):
            profile_local(**arguments, runs=10)
    assert not (tmp_path / "was-run").exists()


def test_a_variant_that_fails_is_named_with_what_it_said(make_bundle: Any, tmp_path: Path) -> None:
    broken = make_bundle(tmp_path / "broken", onnx=b"not a model")
    with pytest.raises(DeviceError) as caught:
        profile_local(broken, runs=10)
    assert "broken: onnx-fp32, 1 thread" in caught.value.message
    assert "status 1" in caught.value.message
    assert "cannot load model.onnx" in caught.value.message
    assert "--bench --variant onnx-fp32" in str(caught.value.hint)


@pytest.mark.law(1)
@pytest.mark.parametrize(
    ("runner", "message"),
    [
        ("import os\nos.kill(os.getpid(), 9)\n", "ended by signal 9"),
        ("import sys\nfor i in range(99): print('line', i, file=sys.stderr)\nsys.exit(3)\n", "status 3:\nline 91\n"),
        ("print('no json')\n", "status 0"),
    ],
)
def test_a_runner_that_does_not_answer(make_bundle: Any, tmp_path: Path, runner: str, message: str) -> None:
    strange = make_bundle(tmp_path / "strange", onnx=b"", runner=runner)
    with pytest.raises(DeviceError) as caught:
        profile_trusted(strange)
    assert message in caught.value.message


def test_a_runner_of_another_version_is_told(
    make_bundle: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = f"print('noise')\nprint({json.dumps({'variants': [{'name': 'onnx-fp32', 'a_new_field': 1}]})!r})\n"
    strange = make_bundle(tmp_path / "strange", onnx=b"", runner=runner)
    with caplog.at_level(logging.WARNING), pytest.raises(DeviceError, match=r"run\.py: file: Field required"):
        profile_trusted(strange)
    assert "is not the runner of edgespa" in caplog.text


def test_a_runner_that_says_more_is_understood() -> None:
    row = {"name": "onnx-fp32", "file": "f", "format": "onnx", "precision": "fp32", "size_bytes": 1, "a_new_field": 1}
    found = parse_answer(Listed, {**row, "runtime": "onnxruntime 1", "reason": None}, "bundle")
    assert found.name == "onnx-fp32"
    assert not hasattr(found, "a_new_field")


def profile_trusted(bundle: Path) -> None:
    with connect(load_device("local")) as connection:
        profile_on(bundle, connection, Settings(runs=10, trust=True))


def test_without_trust_nothing_of_the_bundle_is_run(make_bundle: Any, tmp_path: Path, bundle: Path) -> None:
    """Its run.py, and modules that lie beside it under the names of those that a runner imports."""
    harm = f"open({str(tmp_path / 'was-run')!r}, 'w')\n"
    names = ("numpy", "json", "argparse", "onnxruntime", "zlib", "base64", "sitecustomize")
    modules = {f"{name}.py": harm.encode() for name in names}
    model = (bundle / "model.onnx").read_bytes()
    foreign = make_bundle(tmp_path / "foreign", onnx=model, runner=harm, extra=modules)
    assert profile_local(foreign, runs=10).results[0].p50_ms > 0
    assert not (tmp_path / "was-run").exists()
    with pytest.raises(DeviceError):
        profile_trusted(foreign)
    assert (tmp_path / "was-run").exists()


def test_a_bundle_without_runner(bundle: Path, make_bundle: Any, tmp_path: Path) -> None:
    (bundle / "run.py").unlink()
    assert [check.status for check in run_selfcheck(bundle)] == ["passed"]  # what it has is what is proved
    with pytest.raises(BundleError, match=r"run\.py is missing"):
        profile_local(bundle)


def test_a_bundle_cannot_speak_for_itself(make_bundle: Any, tmp_path: Path) -> None:
    check = {"name": "onnx-fp32", "status": "passed", "runtime": "r", "failures": []}
    answer = json.dumps({"selfcheck": [check]})
    liar = make_bundle(tmp_path / "liar", onnx=b"not a model", runner=f"print({answer!r})\n")
    (found,) = run_selfcheck(liar)
    assert found.status == "failed"
    assert not is_own_runner(liar)


def test_selfcheck_results(bundle: Path, bad_bundle: Path) -> None:
    (good,) = run_selfcheck(bundle)
    assert (good.name, good.status, good.failures, good.count) == ("onnx-fp32", "passed", (), 11)
    assert good.bound == {"relative_error": 1e-4, "top1_agreement": 1.0}
    (bad,) = run_selfcheck(bad_bundle, "onnx-fp32")
    assert bad.status == "failed"
    assert bad.failures


def test_a_missing_runtime_is_never_silent(no_onnxruntime: None, full_bundle: Path, bundle: Path) -> None:
    profile = profile_local(full_bundle, runs=10)
    assert [each.variant for each in profile.results] == ["tflite-fp32"]
    (skipped,) = profile.skipped
    assert (skipped.variant, "another numpy" in skipped.reason) == ("onnx-fp32", True)
    with pytest.raises(DeviceError, match="onnx-fp32 cannot run here"):
        profile_local(full_bundle, variants=["onnx-fp32"], runs=10)
    with pytest.raises(DeviceError, match="no variant can run here"):
        profile_local(bundle, runs=10)
    assert [check.status for check in run_selfcheck(full_bundle)] == ["not run", "passed"]


def test_an_unknown_variant(bundle: Path) -> None:
    with pytest.raises(BundleError, match="no variant 'onnx-int8'"):
        profile_local(bundle, variants=["onnx-int8"])


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"threads": ()}, {"threads": (1, 0)}, {"runs": 0}, {"seconds": 0.0}])
def test_numbers_out_of_range(bundle: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        profile_local(bundle, **wrong)


def test_a_bundle_is_not_compared_with_itself(bundle: Path) -> None:
    (bundle.parent / "link").symlink_to(bundle)
    with pytest.raises(ConfigError, match="with itself"):
        profile_local(bundle, against=bundle.parent / "link")


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    values = {"load_average": None, "governor": None, "frequency_khz": None, "temperature_c": {"cpu": 40.5}}
    host = dict.fromkeys(("cpu_model", "logical_cores", "affinity", "memory_kib"))
    return Profile.model_validate(
        {
            "created": "2026-11-21T02:30:01.250+00:00",
            "device": "local",
            "host": {"system": "s", "machine": "m", **host},
            "before": values,
            "after": values,
            "rounds": 1,
            "bundle": "b",
            "against": None,
            "results": (VariantProfile.of("b", [measurement()]),),
            "ratios": (),
            "skipped": (),
        }
    )


def test_saved_profiles_are_read_back_and_add_up(profile: Profile, bundle: Path) -> None:
    first, second = save_profile(profile, bundle), save_profile(profile, bundle)
    assert first == bundle / "profiles" / "20261121T023001.250000Z-local.json"
    assert first != second
    for file in (first, second):
        assert Profile.parse(json.loads(file.read_text()), str(file)) == profile
    assert len(os.listdir(bundle / "profiles")) == 2


def test_half_a_profile_of_a_killed_process_goes_with_the_next(profile: Profile, bundle: Path) -> None:
    """Its name has the time in it, and does not come again."""
    folder = bundle / "profiles"
    folder.mkdir()
    for name in (".20251121T023001.250000Z-local.json.tmp-0123abcd", ".mine.json"):
        (folder / name).write_text("half")
    saved = save_profile(profile, bundle)
    assert sorted(os.listdir(folder)) == [".mine.json", saved.name]


def test_a_failing_save_leaves_nothing(profile: Profile, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DeviceError, match="No space left") as caught:
        save_profile(profile, bundle)
    assert "--no-save" in str(caught.value.hint)
    assert os.listdir(bundle / "profiles") == []


def test_a_bundle_with_profiles_still_verifies(bundle: Path, profile: Profile) -> None:
    from edgespa.bundle import verify_files

    save_profile(profile, bundle)
    verify_files(bundle)
