"""The public interface: its names and signatures, what it takes, and what it gives."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import edgespa as es
from edgespa.api.bundles import _named
from edgespa.bundle import Base as BaseEntry
from edgespa.exporting.bundle import Origin
from edgespa.graph.cost import Cost

SIGNATURES = {
    "adapt": "model data output eval_data validation_data start distill input_shape weights trust mean std limit "
    "eval_limit labels class_offset objective skip_bad_files latency_ms device threads variant log_file tensorboard "
    "mlflow resume fresh overwrite progress settings",
    "catch_up": "group device signers identity revoked volatile threads watch_s health_command health_every_s "
    "health_timeout_s max_latency_ms wait_for_lock_s progress",
    "check_data": "data eval_data output input_shape objective overwrite progress",
    "compress": "model images output latency_ms speedup device threads formats precisions eval_data heal heal_steps "
    "tensorboard mlflow keep only int8_max_loss input_shape weights mean std limit eval_limit labels class_offset "
    "objective skip_bad_files save_task seed fresh overwrite progress settings",
    "evaluate": "model eval_data output input_shape weights base trust mean std eval_limit labels class_offset "
    "objective skip_bad_files variants threads timeout_s signers identity revoked wrong seed overwrite progress "
    "settings",
    "export": "model output calibration eval_data input_shape weights base trust mean std limit eval_limit labels "
    "class_offset objective skip_bad_files device sign_key license overwrite progress settings",
    "heal": "task calibration output original eval_data base weights trust mean std limit eval_limit labels "
    "class_offset objective skip_bad_files log_file tensorboard mlflow resume fresh overwrite progress settings",
    "inspect": "model input_shape weights base trust",
    "latencies": "device model variants threads input_shape weights base trust again remove progress",
    "open_bundle": "path signers identity revoked",
    "open_task": "path",
    "profile": "bundle device group against variants threads tune runtimes arithmetics providers pick runs seconds "
    "duration cooldown rounds signers identity revoked trust power_mode fixed_clocks by_layer again save progress",
    "prune": "model output density calibration eval_data held_out data input_shape weights base trust mean std limit "
    "eval_limit labels class_offset objective skip_bad_files latency_ms device threads variant heal heal_steps "
    "tensorboard mlflow plot resume fresh overwrite progress settings",
    "publish": "source to sign_key unsigned task groups kinds downgrade keep remove with_base base weights signers "
    "identity revoked trust progress",
    "pull": "source output with_base signers identity revoked plain_http overwrite progress",
    "push": "source target with_base base weights trust license base_model datasets public plain_http progress",
    "remove": "task device group",
    "rollback": "task device group to threads wait_for_lock_s",
    "ship": "source device group task keep with_base base weights sign_key signers identity revoked trust volatile "
    "threads waves abort_above take_back watch_s health_command health_every_s health_timeout_s max_latency_ms "
    "wait_for_lock_s progress",
    "search": "model data validation_data output eval_data space goals latency_ms size_bytes device threads sampler "
    "trials bracket timeout_s jobs ray input_shape weights mean std limit eval_limit labels class_offset objective "
    "skip_bad_files seed tensorboard mlflow fresh progress settings",
    "sweep": "file output jobs ray again dry_run trust progress",
    "status": "device group selfcheck timeout_s progress",
    "verify": "bundle signers identity revoked run pythons runtimes threads timeout_s memory_mib by_layer "
    "device eval_data eval_limit labels class_offset skip_bad_files seed fresh progress",
    "report": "paths output title examples images signers identity revoked trust seed overwrite progress",
}
RESULTS = {
    "Bundle",
    "Compression",
    "DataCheck",
    "Evaluation",
    "Inspection",
    "Latencies",
    "Prediction",
    "Profile",
    "Profiles",
    "Publication",
    "Pulled",
    "Pushed",
    "Removal",
    "Report",
    "Result",
    "Rollback",
    "SearchResult",
    "Shipping",
    "Status",
    "SweepResult",
    "TaskFile",
}
RESULTS |= {"Verification"}


def test_names_and_signatures_stay() -> None:
    functions = {name for name in es.__all__ if inspect.isfunction(getattr(es, name))}
    assert functions == set(SIGNATURES)
    assert set(es.__all__) - functions == {*RESULTS, "EdgespaError"}
    for name, wanted in SIGNATURES.items():
        found = inspect.signature(getattr(es, name)).parameters
        assert " ".join(found) == wanted, name
        first, *others = found.values()
        assert first.kind is first.POSITIONAL_OR_KEYWORD
        assert all(each.kind in (each.KEYWORD_ONLY, each.VAR_KEYWORD) for each in others), name


def test_every_public_thing_says_what_it_is() -> None:
    for name in es.__all__:
        assert inspect.getdoc(getattr(es, name)), name
    for name in SIGNATURES:
        text = inspect.getdoc(getattr(es, name)) or ""
        assert all(f"{each}:" in text for each in SIGNATURES[name].split() if each != "settings"), name
    with pytest.raises(AttributeError, match="no attribute 'adept'"):
        _ = es.adept


def test_importing_it_loads_no_library() -> None:
    code = (
        "import sys, edgespa; dir(edgespa); print(sorted({'torch', 'numpy', 'pydantic', 'click'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 16, 3, 2), nn.BatchNorm2d(16), nn.Conv2d(16, 24, 3)
        self.head = nn.Linear(24, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.norm(self.conv(images)).relu()).relu().mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def images(count: int = 48) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Bright and dark ones."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    return (random.random((count, 1, 12, 12)) + labels[:, None, None, None]).astype(np.float32), labels


class Bright(Dataset[tuple[torch.Tensor, int]]):
    classes = ("dark", "bright")

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index >= 48:
            raise IndexError
        one, label = (each[index] for each in images())
        return torch.from_numpy(one), int(label)


def as_arrays() -> Any:
    return images()


def as_tensors() -> Any:
    return tuple(torch.from_numpy(each) for each in images())


def as_dataset() -> Any:
    return Bright()


def as_loader() -> Any:
    return DataLoader(TensorDataset(*as_tensors()), batch_size=8, shuffle=True)


@pytest.mark.law(2)
@pytest.mark.parametrize("given", [as_arrays, as_tensors, as_dataset, as_loader])
def test_data_in_memory_give_the_same_task(given: Any, net: Net, tmp_path: Path) -> None:
    made = []
    for name, data in (("a", given()), ("b", as_arrays())):
        made.append(
            es.adapt(
                net,
                data=data,
                output=tmp_path / f"{name}.spa",
                input_shape=(1, 1, 12, 12),
                density=0.5,
                epochs=1,
                batch_size=8,
                rank=2,
                round_to=1,
                progress=False,
            )
        )
    assert made[0].channel_density < 0.6
    first, second = (each.task.factors.flat() for each in made)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pixels_are_pixels_in_arrays_and_tensors(net: Net, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 1), dtype=np.uint8)
    labels = np.arange(16) % 2
    tensors = (torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels))
    found = [
        es.prune(
            net,
            density=0.5,
            calibration=data,
            method="asym-in-change",
            input_shape=(1, 1, 12, 12),
            round_to=1,
            output=tmp_path / f"{index}.spa",
            progress=False,
        )
        for index, data in enumerate([(pixels, labels), tensors, pixels])
    ]
    kept = [{name: mask.tolist() for name, mask in each.task.kept.items()} for each in found]
    assert kept[0] == kept[1] == kept[2]


def test_from_a_module_to_a_measured_bundle(net: Net, tmp_path: Path) -> None:
    told: list[str] = []
    seen = es.inspect(net, input_shape=torch.zeros(1, 1, 12, 12))
    assert (seen.model, seen.parameters) == ("python:Net", sum(each.numel() for each in net.parameters()))
    task = es.prune(net, density=0.5, input_shape=(1, 1, 12, 12), round_to=1, output=tmp_path / "cut.spa")
    bundle = es.export(
        task,
        output=tmp_path / "cut",
        formats=["onnx"],
        precisions=["fp32"],
        eval_data=images(),
        cache=False,
        progress=lambda done, total, text: told.append(text),
    )
    assert any("prove" in text for text in told)
    checked = es.verify(bundle)
    assert checked.passed
    assert checked.recorded == {"onnx-fp32": bundle.manifest.variants[0].accuracy}
    assert "accuracy" in repr(checked)
    measured = es.profile(bundle, runs=5)
    assert measured.saved is not None
    assert measured.saved.is_file()
    for result, words in ((seen, "conv"), (task, "50"), (bundle, "onnx-fp32"), (checked, "passed"), (measured, "p50")):
        assert words in repr(result)
        assert words in result.to_markdown()
        assert words in result._repr_html_()
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
        with pytest.raises(AttributeError):
            result.path = tmp_path  # type: ignore[misc,union-attr]
    assert es.open_bundle(tmp_path / "cut").to_dict() == bundle.to_dict()
    assert es.open_task(tmp_path / "cut.spa").to_dict() == task.to_dict()


@pytest.mark.parametrize(
    "sizes",
    ["1,1,12,12", [1, 1, 12, 12], ((1, 1, 12, 12),), torch.Size((1, 1, 12, 12)), tuple(np.array([1, 1, 12, 12]))],
)
def test_sizes_however_they_are_written(sizes: Any, net: nn.Module) -> None:
    assert es.inspect(net, input_shape=sizes).parameters == es.inspect(net, input_shape=(1, 1, 12, 12)).parameters


@pytest.mark.parametrize(
    "sizes", [5, [], {"a": 1}, [["a"]], (1, 1, 12.5, 12), (1, 1, -1, 12), "x", "1,1,12", (1, 1, 0, 12), None]
)
def test_sizes_that_are_none_are_told(sizes: Any, net: nn.Module) -> None:
    with pytest.raises(es.EdgespaError) as told:
        es.inspect(net, input_shape=sizes)
    assert told.value.hint


def test_on_this_machine_as_on_a_device(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    made = []
    for density in (0.75, 0.5):
        task = es.prune(
            net, density=density, input_shape=(1, 1, 12, 12), round_to=1, output=tmp_path / f"{density}.spa"
        )
        out = tmp_path / f"bundle-{density}"
        made.append(es.export(task, output=out, formats=["onnx"], precisions=["fp32"], cache=False, progress=False))
    assert es.status("local").to_dict()["devices"][0]["tasks"] == []
    versions = [es.ship(each, device="local", task="net").shipped[0].version for each in made]
    assert versions[0] != versions[1]
    there = es.status("local", selfcheck=True)
    assert there.ok
    assert there.devices[0].tasks[0].current == versions[1]
    back = es.rollback("net", device=["local"])
    assert back.switched[0].version == versions[0]
    for result in (there, back):
        assert versions[0 if result is back else 1] in repr(result)
        assert "net" in result.to_markdown()
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    with pytest.raises(es.EdgespaError, match="no task 'other'"):
        es.rollback("other", device="local")


def test_the_model_is_not_touched(net: Net, tmp_path: Path) -> None:
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    es.prune(net, density=0.5, input_shape=(1, 1, 12, 12), round_to=1, output=tmp_path / "cut.spa", progress=False)
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_base_given_in_python_is_given_again(net: Net, tmp_path: Path) -> None:
    task = es.prune(net, density=0.5, input_shape=(1, 1, 12, 12), round_to=1, output=tmp_path / "cut.spa")
    settings: dict[str, Any] = {"formats": ["onnx"], "precisions": ["fp32"], "progress": False, "cache": False}
    plain = es.export(net, output=tmp_path / "plain", input_shape=(1, 1, 12, 12), **settings)
    assert plain.manifest.task == "Net"
    with pytest.raises(es.EdgespaError, match="given in Python: Net") as failed:
        es.export(tmp_path / "cut.spa", output=tmp_path / "a", **settings)
    assert "base=" in (failed.value.hint or "")
    assert es.export(tmp_path / "cut.spa", base=net, output=tmp_path / "b", **settings).manifest.variants
    other = Net()
    with pytest.raises(es.EdgespaError, match="another base"):
        es.export(task, base=other, output=tmp_path / "c", **settings)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net, out: es.adapt(net, data=images(), output=out, input_shape=(1, 1, 12, 12), rnk=4), "rank"),
        (lambda net, out: es.prune(net, density=0.5, output=out, input_shape=(1, 1, 12, 12), metod="l1"), "method"),
        (lambda net, out: es.export(net, output=out, input_shape=(1, 1, 12, 12), precision=["fp32"]), "precisions"),
        (
            lambda net, out: es.export(net, output=out, input_shape=(1, 1, 12, 12), calibraton=images()),
            "export: calibraton: is not known\ndid you mean 'calibration'?",
        ),
        (lambda net, out: es.compress(net, images=images(), speedup=2, output=out, device_="local"), "'device'"),
        (lambda net, out: es.prune(net, output=out, input_shape=(1, 1, 12, 12)), "density"),
        (lambda net, out: es.prune(7, density=0.5, output=out), "nn.Module"),
        (lambda net, out: es.prune(net, density=0.5, output=out), "input"),
        (lambda net, out: es.adapt(net, data=5, output=out, input_shape=(1, 1, 12, 12)), "Dataset"),
        (
            lambda net, out: es.adapt(net, data=(images()[0], images(6)[1]), output=out, input_shape=(1, 1, 12, 12)),
            "as many labels",
        ),
        (lambda net, out: es.adapt(net.half(), data=images(), output=out, input_shape=(1, 1, 12, 12)), "model.float()"),
        (lambda net, out: es.inspect(Net, input_shape=(1, 1, 12, 12)), "Net()"),
        (lambda net, out: es.prune(net, density=0.5, method="sls", output=out), "density: not for the method sls"),
        (lambda net, out: es.prune(net, density=0.5, data=images(), output=out), "method='sls'"),
        (lambda net, out: es.prune(net, density=0.5, latency_ms=3, output=out), "exclude each other"),
        (lambda net, out: es.adapt(net, data=images(), device="pi-4b", output=out), "latency_ms"),
        (lambda net, out: es.prune(net, density=0.5, method="l3", output=out), "prune: unknown method 'l3'"),
        (lambda net, out: es.adapt(net, data=images(), class_weights="w.json", output=out), "w.json: no such file"),
        (lambda net, out: es.export(net, output=out, device="pi-4b", onnx_runtime="1.19"), "leave out onnx_runtime"),
        (lambda net, out: es.verify(net), "a Net is no file"),
        (lambda net, out: es.verify(out, run=False, pythons=["python3"]), "run=False"),
        (lambda net, out: es.verify(out, identity="me"), "signers"),
        (lambda net, out: es.ship([], device="local"), "nothing is to be shipped"),
        (lambda net, out: es.open_task(out.parent), "a folder, not a task file"),
    ],
)
def test_mistakes_are_answered(call: Any, words: str, net: Net, tmp_path: Path) -> None:
    with pytest.raises(es.EdgespaError) as failed:
        call(net, tmp_path / "out.spa")
    assert words in "".join(traceback.format_exception_only(failed.value))  # what a script or a notebook shows
    assert list(tmp_path.iterdir()) == []


def test_one_is_as_good_as_a_list_of_one(net: Net, tmp_path: Path) -> None:
    task, same = (
        es.prune(net, density=0.8, input_shape=(1, 1, 12, 12), round_to=1, only=only, output=tmp_path / f"{name}.spa")
        for name, only in (("cut", "conv"), ("same", ["conv"]))
    )
    assert task.channel_density == same.channel_density < 1
    names = ["dark", "bright"]
    bundle = es.export(task, output=tmp_path / "cut", formats="onnx", precisions="fp32", labels=names, cache=False)
    assert [each.name for each in bundle.manifest.variants] == ["onnx-fp32"]
    assert (tmp_path / "cut" / "labels.txt").read_text().split() == names
    measured = es.profile(bundle, device=["local"], variants="onnx-fp32", runs=3, save=False)
    assert (measured.ok, len(measured.profiles), measured.kept) == (True, 1, {})
    assert "onnx-fp32" in repr(measured)
    assert es.open_bundle(bundle).to_dict() == bundle.to_dict()
    assert es.open_task(task).to_dict() == task.to_dict()


def test_a_profile_that_cannot_be_saved_is_given_and_kept(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESPA_CACHE", str(tmp_path / "cache"))
    bundle = es.export(net, output=tmp_path / "b", input_shape=(1, 1, 12, 12), formats="onnx", cache=False)
    (tmp_path / "b" / "profiles").touch()
    found = es.profile(bundle, runs=3)
    assert found.saved is None
    assert "cannot save the profile" in repr(found)
    (tmp_path / "b" / "profiles").unlink()
    again = es.profile(bundle, runs=3)
    assert again.saved is not None
    assert again.measured.results == found.measured.results


def test_names_of_outputs_without_data_are_taken_or_refused(net: Net, tmp_path: Path) -> None:
    """They were left out without a word: nothing had read the file."""
    with torch.no_grad():
        outputs = net(torch.ones(1, 1, 12, 12)).shape[1]
    (tmp_path / "names").write_text("".join(f"class {number}\n" for number in range(outputs)))
    origin = Origin("task", BaseEntry(spec="net.py:build", digest="sha256:0"), Cost(1, 1, 4))
    named = _named(origin, outputs, tmp_path / "names")
    assert named.classes == tuple(f"class {number}" for number in range(outputs))
    assert _named(named, outputs, tmp_path / "names") == named
    with pytest.raises(es.EdgespaError, match="was trained on"):
        _named(dataclasses.replace(origin, classes=("a", "b")), 2, tmp_path / "names")
    (tmp_path / "names").write_text("one too many\n" * (outputs + 1))
    with pytest.raises(es.EdgespaError, match=f"{outputs + 1} names, and the model {outputs} outputs"):
        es.export(net, output=tmp_path / "out", input_shape=(1, 1, 12, 12), formats=["onnx"], labels=tmp_path / "names")
    assert not (tmp_path / "out").exists()
