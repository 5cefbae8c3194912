"""Fixtures that all tests share."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from edgespa.config import Preprocess
from edgespa.data import ImageData, load_data
from edgespa.exporting import trial
from edgespa.exporting.conversion import Conversions
from edgespa.tasks.base import Base

# --hypothesis-profile=deep, or: make fuzz. The tests named fuzz try thirty times as many inputs then.
settings.register_profile("deep", max_examples=3_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# How fast inputs are drawn says how busy the machine is.
settings.register_profile("usual", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("usual")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real weights and images, from ``EDGESPA_DATA`` or beside the repository; skips if it is absent."""
    folder = Path(os.environ.get("EDGESPA_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (folder / "models.py").is_file():
        pytest.skip(f"REAL DATA ABSENT: no models.py in {folder}; set EDGESPA_DATA to the folder that has it")
    return folder


def pytest_configure() -> None:
    """Programs that tests end by a signal are to hear it, also where ``nohup`` lets pytest hear none."""
    if threading.current_thread() is threading.main_thread():
        for number, usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def documents_are_what_their_types_say() -> Iterator[None]:
    """Whatever a command prints with ``--json`` in any test is looked at by its type."""
    from edgespa.api.documents import DOCUMENTS, Checked, problems
    from edgespa.cli import _output, main
    from edgespa.system.plain import to_plain

    emit = _output.emit_json

    @functools.cache
    def names() -> dict[click.Command, str]:
        found: dict[click.Command, str] = {}
        waiting: list[tuple[str, click.Group]] = [("", main)]
        while waiting:
            path, group = waiting.pop()
            context = click.Context(group)
            for name in group.list_commands(context):
                command = group.get_command(context, name)
                assert command is not None
                found[command] = f"{path} {name}".strip()
                if isinstance(command, click.Group):
                    waiting.append((found[command], command))
        return found

    def looked_at(value: Any) -> None:
        emit(value)
        context = click.get_current_context(silent=True)
        name = names().get(context.command) if context else None
        plain = json.loads(json.dumps(value.to_dict() if hasattr(value, "to_dict") else to_plain(value)))
        if name in DOCUMENTS and not (isinstance(plain, dict) and plain.keys() == Checked.__annotations__.keys()):
            assert problems(name, plain) == [], f"what edgespa {name} --json printed is not what api/documents.py says"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_output, "emit_json", looked_at)
        yield


@pytest.hookimpl(tryfirst=True)  # before it is chosen by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a law over many cases some are for ``make test``: drawn, but always the same, and not always of one kind.

    Files whose tests take long come first: of several processes, the last to end would be waited for.
    """
    laws: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("law") and not item.get_closest_marker("more"):
            laws.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for name, cases in laws.items():
        mark = cases[0].get_closest_marker("law")
        assert mark is not None
        some = random.Random(name).sample(range(len(cases)), min(mark.args[0], len(cases)))
        for number, case in enumerate(cases):
            if number not in some:
                case.add_marker("more")
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is taken from the user's cache of converted files, devices and data of devices, or put there.

    What is converted once is there for all processes of this run of the tests, and for no other run.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESPA_CACHE", str(shared / "converted"))
        for kind in ("CONFIG", "DATA", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(tmp_path_factory.mktemp(kind.lower())))
        yield


@pytest.fixture(scope="session", autouse=True)
def _converted_here() -> Iterator[Callable[..., Any]]:
    """Converters work in this process, where they are loaded once: a new one takes five seconds to load them.

    What a command in another process converts is converted as users have it.
    """
    start = Conversions.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conversions, "start", lambda *_: None)
        # torch makes this table anew for each file: half of the time of a small one.
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield start


@pytest.fixture(scope="session", autouse=True)
def _tried_in_one_process() -> Iterator[None]:
    """The process that tries files stays for the next export: a new one takes a second to load the runtimes."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("bundle", "task_bundle"):
            patch.setattr(f"edgespa.exporting.{module}.trials", contextlib.nullcontext)
        yield
    trial.end()


@pytest.fixture
def converted_apart(_converted_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Converters work in processes of their own, as users have it, and find nothing that was converted before."""
    monkeypatch.setenv("EDGESPA_CACHE", "off")
    monkeypatch.setattr(Conversions, "start", _converted_here)


@pytest.fixture(scope="session")
def write_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """`write_branches` for latency tables, which writes the file of a layer once: later tests get copies."""
    from edgespa.exporting.branches import write_branches
    from edgespa.latency.chains import Chain

    kept = tmp_path_factory.mktemp("layers")
    names: dict[tuple[object, ...], Path] = {}

    def write(branches: Sequence[tuple[nn.Module, Any]], paths: Sequence[Path], *form: Any) -> None:
        keys: list[tuple[object, ...]] = [
            (str(each), str(each.kind) if isinstance(each, Chain) else "", shapes, form[:2])
            for each, shapes in branches
        ]
        new = {number: key for number, key in enumerate(keys) if key not in names}
        if new:
            write_branches([branches[i] for i in new], [paths[i] for i in new], *form)
        for i, key in new.items():
            shutil.copyfile(paths[i], names.setdefault(key, kept / f"{len(names)}"))
        for i, key in enumerate(keys):
            if i not in new:
                shutil.copyfile(names[key], paths[i])

    return write


TOY_NET = '''
import torch
from torch import nn


class Net(nn.Module):
    """Batch norms, a residual stream, a depthwise convolution, dropout: what an adaptation meets."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.conv3 = nn.Conv2d(24, 16, 1)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(16, classes)
        for norm in (self.bn1, self.bn2):
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                nn.init.uniform_(tensor, 0.2, 1.0)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, x):
        stream = torch.relu(self.bn1(self.conv1(x)))
        inner = self.depthwise(torch.relu(self.bn2(self.conv2(stream))))
        stream = stream + self.conv3(inner)
        return self.fc(self.drop(stream.mean((2, 3))))


def build():
    return Net(4)


def other():
    torch.manual_seed(5)
    return Net(4)
'''


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``net.py:build``, a small network for 3 x 8 x 8 images and 4 classes, and ``colours.npz``.

    The data are 96 noisy images of 3 classes: mostly red, green, or blue.
    """
    folder = tmp_path_factory.mktemp("toy")
    (folder / "net.py").write_text(TOY_NET, encoding="utf-8")
    random = np.random.default_rng(0)
    labels = np.arange(96) % 3
    images = random.integers(0, 110, (96, 8, 8, 3)).astype(np.uint8)
    images[np.arange(96), :, :, labels] += 120
    np.savez(folder / "colours.npz", images=images, labels=labels)
    return folder


@pytest.fixture(scope="session")
def toy_base(toy_folder: Path) -> Base:
    """The network of `toy_folder` as a base, named by its absolute path. Not to be changed."""
    return Base.open(f"{toy_folder / 'net.py'}:build", (1, 3, 8, 8))


@pytest.fixture(scope="session")
def toy_data(toy_folder: Path) -> ImageData:
    """The images of `toy_folder`."""
    return load_data(str(toy_folder / "colours.npz"))


@pytest.fixture(scope="session")
def toy_preprocess() -> Preprocess:
    """How they become inputs."""
    return Preprocess(height=8, width=8, channels=3, mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))


@pytest.fixture
def told_by_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    """All devices have a latency table of every network, by which a layer takes its multiply-accumulates."""
    from edgespa.latency.known import Foretold
    from edgespa.latency.predict import needed
    from edgespa.latency.table import LatencyTable, Origin

    origin = Origin(
        device="any", machine="any", cpu_model="any", runtime="onnxruntime 1", variant="onnx-fp32", threads=1
    )

    def known(base: Base, *_: object) -> Foretold:
        points = [
            (kind, at, 1e-2 + 1e-2 * math.prod((*at, *kind.kernel, *kind.size)))
            for kind, own in needed(base.layers).items()
            for at in own
        ]
        return Foretold.of(base, LatencyTable(origin=origin, created="now", step=4, run_us=1e-3).with_points(points))

    monkeypatch.setattr("edgespa.latency.budget.known_latencies", known)
