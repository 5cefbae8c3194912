"""Task files of somebody else: their base runs only where the user said so, and never by the name of a module."""

from __future__ import annotations

import importlib.abc
import json
import shutil
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest
import torch
from typed import run

from edgespa.errors import BaseMismatchError, EdgespaError, UntrustedError
from edgespa.models import opening
from edgespa.models.trust import is_remembered, remember, require_trusted
from edgespa.pruning import PruneConfig, prune
from edgespa.tasks import sealed
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

NET = """
import torch
from torch import nn
from pathlib import Path
from widths import WIDTH

(Path(__file__).parent / "ran").write_text("it ran")


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.ReLU(), nn.Conv2d(WIDTH, 4, 3), nn.Flatten(), nn.Linear(64, 4))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "net.py").write_text(NET)
    (folder / "widths.py").write_text("WIDTH = 16\n")
    base = Base.open(f"{folder / 'net.py'}:build", (1, 3, 8, 8))
    prune(base, PruneConfig(density=0.5), folder).save(folder / "task.spa")
    (folder / "ran").unlink()
    sys.modules.pop("widths", None)
    return folder


@pytest.fixture
def theirs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task file beside its base, made by somebody else: nothing was used here before."""
    folder = tmp_path / "theirs"
    shutil.copytree(made, folder)
    spec = f"{folder / 'net.py'}:build"
    forged(made / "task.spa", folder / "task.spa", spec=spec, spec_absolute=spec, spec_relative="net.py:build")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of-mine"))
    return folder / "task.spa"


def forged(path: Path, target: Path, **base: Any) -> Path:
    """A task file that names another base, with a right seal."""
    text, tensors = sealed.read(path, "edgespa")
    header = json.loads(text)
    header["base"].update(base)
    target.write_bytes(sealed.to_bytes("edgespa", json.dumps(header), tensors))
    return target


def named(path: Path, target: Path, spec: str) -> Path:
    return forged(path, target, spec=spec, spec_absolute=spec, spec_relative=spec, weights=None)


COMMANDS = [
    ["inspect", "TASK"],
    ["export", "TASK", "-o", "OUT"],
    ["ship", "TASK", "--device", "local", "--with-base"],
    ["prune", "TASK", "--method", "sls", "--keep-depth", "1", "-o", "OUT.spa"],
    ["adapt", "--from", "TASK", "--data", "DATA", "-o", "OUT.spa"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: str(each[0]))
def test_no_command_runs_their_base(theirs: Path, tmp_path: Path, toy_folder: Path, command: list[str]) -> None:
    places = {"TASK": str(theirs), "OUT": str(tmp_path / "out"), "DATA": str(toy_folder / "colours.npz")}
    words = command
    for word, place in places.items():
        words = [each.replace(word, place) for each in words]
    result = run(*words, code=1)
    assert result.exit_code == 1
    assert f"{theirs.parent / 'net.py'}:build" in result.stderr
    assert "--trust" in result.stderr
    assert "--base" in result.stderr
    assert not (theirs.parent / "ran").exists()
    assert not list(tmp_path.glob("out*"))


def test_the_api_does_not_either(theirs: Path) -> None:
    task = Task.load(theirs)
    with pytest.raises(UntrustedError):
        task.open_base(theirs.parent)
    assert not (theirs.parent / "ran").exists()


def test_what_the_user_says_is_done_and_kept_in_mind(theirs: Path) -> None:
    assert run("inspect", str(theirs), code=1).exit_code == 1
    assert run("inspect", str(theirs), "--trust").exit_code == 0
    assert run("inspect", str(theirs)).exit_code == 0


def test_a_base_that_is_named_by_hand(theirs: Path) -> None:
    spec = f"{theirs.parent / 'net.py'}:build"
    assert run("inspect", str(theirs), "--base", spec).exit_code == 0
    assert run("inspect", str(theirs)).exit_code == 0


def test_a_base_that_was_used_here_before(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(theirs.parent)
    assert run("inspect", "net.py:build", "--input-shape", "1,3,8,8").exit_code == 0
    assert run("inspect", str(theirs)).exit_code == 0


@pytest.mark.parametrize("file", ["net.py", "widths.py", "torch.py", "pathlib/__init__.py"])
def test_code_that_has_changed_is_asked_for_again(theirs: Path, file: str) -> None:
    """Also what it imports from beside it, and what would now be found in the place of an installed module."""
    spec = f"{theirs.parent / 'net.py'}:build"
    remember(spec)
    assert is_remembered(spec)
    changed = theirs.parent / file
    changed.parent.mkdir(exist_ok=True)
    with changed.open("a") as stream:
        stream.write("\n# other code\n")
    assert not is_remembered(spec)
    with pytest.raises(UntrustedError, match="has changed since"):
        Task.load(theirs).open_base(theirs.parent)


def test_the_same_code_elsewhere_is_the_same_and_another_function_is_not(theirs: Path, tmp_path: Path) -> None:
    remember(f"{theirs.parent / 'net.py'}:build")
    assert not is_remembered(f"{theirs.parent / 'net.py'}:other")
    moved = tmp_path / "elsewhere"
    shutil.copytree(theirs.parent, moved)
    assert is_remembered(f"{moved / 'net.py'}:build")
    (moved / "notes.py").write_text("# nothing that it imports\n")
    assert is_remembered(f"{moved / 'net.py'}:build")
    # Not imported by the net, but by whatever it calls: the folder comes first on the path.
    (moved / "colorsys.py").write_text("import os\n")
    assert not is_remembered(f"{moved / 'net.py'}:build")


def test_what_others_could_have_noted_does_not_count(theirs: Path, tmp_path: Path) -> None:
    spec = f"{theirs.parent / 'net.py'}:build"
    remember(spec)
    place = tmp_path / "of-mine" / "edgespa" / "bases"
    place.chmod(0o777)
    assert not is_remembered(spec)
    place.chmod(0o700)
    assert is_remembered(spec)


def test_nothing_is_noted_where_nothing_can_be(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(theirs / "a-file-is-no-folder"))
    assert run("inspect", str(theirs), "--trust").exit_code == 0
    assert "cannot be noted" in run("inspect", str(theirs), code=1).stderr
    monkeypatch.setenv("XDG_STATE_HOME", str(theirs.parent / "can-be-made"))
    assert "cannot be noted" not in run("inspect", str(theirs), code=1).stderr
    assert not (theirs.parent / "can-be-made").exists()


@pytest.mark.parametrize(
    "spec",
    [
        "http.server:test", "os:getcwd", "this:s", "antigravity:webbrowser", "pty:spawn", "edgespa.cli:main",
        "edgespa.api.demo:run_demo", "__main__:main", "pytest:main", "torch.hub:list", "safetensors.torch:save_file",
        "click:command", "idlelib.idle:x", "distutils.core:setup", "pip:main", "_pytest.config:main",
    ],
)  # fmt: skip
def test_modules_that_are_not_the_users_own(theirs: Path, tmp_path: Path, spec: str) -> None:
    """Impossible whatever is said of trust; that they are not even imported is seen by those that were not."""
    before = set(sys.modules)
    task = named(theirs, tmp_path / "forged.spa", spec)
    for trust in (False, True):
        with pytest.raises(EdgespaError) as caught:
            Task.load(task).open_base(tmp_path, trust=trust)
        assert spec in caught.value.message
        assert "--base" in str(caught.value.hint)
    assert not {spec.partition(":")[0]} & (set(sys.modules) - before)


def test_a_module_of_the_users_own(tmp_path: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    (own / "package").mkdir(parents=True)
    (own / "package" / "__init__.py").write_text("from package import parts\n")
    (own / "package" / "parts.py").write_text("")
    shutil.copy(theirs.with_name("widths.py"), own)
    (own / "package" / "nets.py").write_text(NET)
    monkeypatch.chdir(own)
    task = Task.load(named(theirs, tmp_path / "forged.spa", "package.nets:build"))
    with pytest.raises(UntrustedError, match=r"package\.nets:build"):
        task.open_base(tmp_path)
    assert "package" not in sys.modules
    task.open_base(tmp_path, trust=True)
    task.open_base(tmp_path)
    (own / "package" / "parts.py").write_text("X = 1\n")
    with pytest.raises(UntrustedError):
        task.open_base(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("package", "widths")]:
        del sys.modules[name]


def test_a_project_in_development_is_the_users_own(
    tmp_path: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is found by a finder of its own, as pip's editable installations are, and by no entry of the path."""
    project = tmp_path / "project" / "in_development"
    project.mkdir(parents=True)
    (project / "__init__.py").write_text(NET.replace("from widths import WIDTH", "WIDTH = 16"))

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
            return PathFinder.find_spec(name, [str(project.parent)]) if name == "in_development" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    task = Task.load(named(theirs, tmp_path / "forged.spa", "in_development:build"))
    with pytest.raises(UntrustedError, match="in_development:build"):
        task.open_base(tmp_path)
    assert "in_development" not in sys.modules
    task.open_base(tmp_path, trust=True)
    task.open_base(tmp_path)
    del sys.modules["in_development"]


def test_the_network_of_the_demo_is_edgespas_own() -> None:
    require_trusted("edgespa.api.demo:network", "a task")


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:hf-hub:someone/net", "hf:someone/net", "hf:/nowhere"])
def test_libraries_are_asked_for_too(theirs: Path, tmp_path: Path, spec: str) -> None:
    """They fetch what is named."""
    if spec.startswith("hf:/"):
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "pytorch_model.bin").write_bytes(b"")
        (tmp_path / "net" / "config.json").write_text("{}")
        spec = f"hf:{tmp_path / 'net'}"
    task = Task.load(named(theirs, tmp_path / "forged.spa", spec))
    with pytest.raises(UntrustedError, match="built by a library") as caught:
        task.open_base(tmp_path)
    assert spec in caught.value.message
    remember(spec)
    require_trusted(spec, "a task")


@pytest.mark.parametrize(
    ("change", "trusted"),
    [
        ({}, True),
        ({"auto_map": {"AutoModel": "evil.Model"}}, False),
        ({"backbone": "local-dir:/somewhere", "use_timm_backbone": True}, False),
        ({"backbone_config": {"model_type": "timm_backbone"}}, False),
        ({"architecture": "local-dir:/somewhere"}, False),
        # Code from a hub that makes attention fast, or reads weights of its own kind.
        ({"attn_implementation": "someone/kernel:forward"}, False),
        ({"_attn_implementation": {"": "flash_attention_2"}}, False),
        ({"quantization_config": {"quant_method": "auto-round"}}, False),
        # A model inside of a model.
        ({"encoder": {"model_type": "detr", "use_timm_backbone": True, "backbone": "resnet50"}}, False),
        ({"vision_config": {"parts": [{"auto_map": {"AutoModel": "evil.Model"}}]}}, False),
        ({"vision_config": {"a_new_key": "someone/net"}}, False),
        # As save_pretrained writes them.
        ({"_name_or_path": "google/vit-base-patch16-224", "id2label": {"0": "n/a", "1": "a: b"}}, True),
        ({"vision_config": {"model_type": "vit", "hidden_act": "gelu"}, "torch_dtype": "float32"}, True),
    ],
)
def test_folders_of_transformers(tmp_path: Path, change: dict[str, Any], trusted: bool) -> None:
    folder = tmp_path / "vit"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"], **change}))
    (folder / "model.safetensors").write_bytes(b"")
    if trusted:
        require_trusted(f"hf:{folder}", "a task")
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/net"}')
        with pytest.raises(UntrustedError):
            require_trusted(f"hf:{folder}", "a task")
        (folder / "adapter_config.json").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UntrustedError):
        require_trusted(f"hf:{folder}", "a task")


def test_saved_programs_need_no_trust(tmp_path: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is compared before the program is looked at."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
    torch.export.save(torch.export.export(net, (torch.ones(1, 3, 8, 8),)), tmp_path / "net.pt2")
    base = Base.open(str(tmp_path / "net.pt2"), None)
    prune(base, PruneConfig(density=0.5), tmp_path).save(tmp_path / "task.spa")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of-another"))
    assert run("inspect", str(tmp_path / "task.spa")).exit_code == 0
    assert not (tmp_path / "of-another").exists()
    monkeypatch.setattr(opening, "from_exported", lambda *given, **named: pytest.fail("it was looked at"))
    with pytest.raises(BaseMismatchError):
        Task.load(named(theirs, tmp_path / "forged.spa", str(tmp_path / "net.pt2"))).open_base(tmp_path)
