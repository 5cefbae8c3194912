"""An option that nothing reads beside the others is refused, with what it is for."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edgespa.adapters.kinds import FULL, kind_named, method_names
from edgespa.cli import _unread
from edgespa.cli._shell import main
from edgespa.cli._unread import RULES, refuse_unread
from edgespa.pruning.config import METHODS, TABLE, PruneConfig

EXPORT, TFLITE, INT8 = "export net.py:b -o out", "--format tflite", "--precision int8 --calibration d"
ADAPT, PRUNE = "adapt net.py:b --data d -o a.spa", "prune net.py:b --density 0.5 -o a.spa"
HEAL = "heal a.spa --calibration d -o b.spa"
SEARCH = "search net.py:b --data d --validation-data v -o out"
SLS = "prune net.py:b --method sls --data d -o a.spa"

CASES = [
    # What is typed, what goes unread with it, and with what else it is read.
    ("inspect net.py:b", "--base net.py:b", None),
    ("inspect a.spa", "--input-shape 1,3,8,8", None),
    ("inspect net.py:b --json", "--all", None),
    (SEARCH, "--eval-limit 10", "--eval-data d"),
    (f"{SEARCH} --goal bytes", "--device pi-4b", "--budget latency_ms=3"),
    (f"{SEARCH} --goal quality", "--threads 2", "--goal latency"),
    (f"{SEARCH} --ray auto", "--jobs 2", None),
    ("sweep tasks.toml -o out --ray auto", "--jobs 2", None),
    ("sweep tasks.toml -o out --dry-run", "--jobs 2", None),
    ("sweep tasks.toml -o out --dry-run", "--ray auto", None),
    (EXPORT, "--base net.py:b", None),
    (EXPORT.replace("net.py:b", "a.spa"), "--input-shape 1,3,8,8", None),
    (EXPORT, "--limit 10", "--calibration d"),
    (f"{EXPORT} --eval-data d", "--limit 10", "--calibration d"),
    (f"{EXPORT} --calibration d", "--eval-limit 10", "--eval-data d"),
    (EXPORT, "--skip-bad-files", "--calibration d"),
    (EXPORT, "--class-offset 1", "--eval-data d"),
    (f"{EXPORT} --calibration d", "--class-offset 1", "--eval-data d"),
    (EXPORT, "--int8-tolerance 0.2", "--precision int8-weights"),
    (f"{EXPORT} --eval-data d", "--int8-max-loss 0.01", "--precision int8-weights"),
    (EXPORT, "--int8-calibration minmax", INT8),
    (EXPORT, "--int8-rounding nearest", INT8),
    (EXPORT, "--int8-scheme symmetric", INT8),
    (f"{EXPORT} {TFLITE} {INT8}", "--int8-scheme symmetric", "--format onnx"),
    (EXPORT, "--int8-io uint8", INT8),
    (f"{EXPORT} --format onnx {INT8}", "--int8-io uint8", TFLITE),
    (EXPORT, "--int8-slowdown 1.1", INT8),
    (EXPORT, "--int8-slowdown 1.1", "--precision fp16"),
    (f"{EXPORT} --precision int8-weights --calibration d", "--calibration-images 9", "--precision int8"),
    (f"{EXPORT} --format onnx", "--layout nchw", TFLITE),
    (f"{EXPORT} --format onnx", "--also-size 64x64", TFLITE),
    (f"{EXPORT} {TFLITE}", "--opset 17", "--format onnx"),
    (f"{EXPORT} {TFLITE}", "--onnx-runtime 1.19", "--format onnx"),
    (f"{EXPORT} {TFLITE}", "--device pi-4b", INT8),
    *(
        (ADAPT, option, "--density 0.5")
        for option in (
            "--normalisation l1", "--round-to 4", "--min-width 2", "--keep a", "--only a", "--criterion l1",
            "--schedule linear", "--prune-steps 3", "--recovery-epochs 1", "--lr-restart",
            "--group-sparsity 0.001",
        )
    ),
    (ADAPT, "--prune-fraction 0.1", "--density 0.5 --schedule stepwise"),
    (f"{ADAPT} --density 0.5", "--prune-fraction 0.1", "--schedule stepwise"),
    (f"{ADAPT} --density 0.5 --schedule stepwise", "--prune-steps 3", "--schedule cubic"),
    (ADAPT, "--keep a", "--budget latency_ms=3"),
    (ADAPT, "--distill-weight 0.3", "--distill base"),
    (ADAPT, "--quantise-share 0.5", "--quantise int8"),
    (ADAPT, "--distill-temperature 3", "--distill base"),
    (f"{ADAPT} --adapter ssf", "--rank 4", "--adapter lora"),
    (f"{ADAPT} --adapter lora", "--kernel full", "--adapter splora"),
    (ADAPT, "--eval-limit 10", "--eval-data d"),
    (f"{ADAPT} --validation-data d", "--validation 0.2", None),
    (f"{ADAPT} --validation-data d", "--hold-out block", None),
    (PRUNE, "--limit 10", "--calibration d"),
    (PRUNE, "--eval-limit 10", "--eval-data d"),
    (PRUNE, "--skip-bad-files", "--calibration d"),
    (PRUNE, "--class-offset 1", "--eval-data d"),
    (f"{PRUNE} --calibration d", "--labels f", "--method act-grad"),
    (f"{PRUNE} --method asym-in-change --calibration d", "--normalisation l1", "--method l1"),
    (f"{PRUNE} --calibration d", "--held-out d", "--allocation equal-accuracy"),
    (PRUNE, "--activations seq", "--calibration d"),
    (f"{PRUNE} --calibration d --no-reweight", "--activations seq", "--reweight"),
    (f"{SLS} --keep-depth 3", "--alpha 0.2", None),
    (f"{SLS} --keep-depth 3", "--metric silhouette", "--plot p.svg"),
    (f"{SLS} --keep-depth 3", "--score-images 100", "--plot p.svg"),
    (f"{PRUNE} --calibration d", "--heal-steps 9", "--heal"),
    (f"{PRUNE} --calibration d", "--tensorboard runs", "--heal"),
    (f"{PRUNE} --calibration d", "--mlflow sqlite:///m.db", "--heal"),
    (HEAL, "--eval-limit 10", "--eval-data d"),
    *((HEAL, option, "--eval-data d") for option in ("--labels f", "--class-offset 1", "--objective classes")),
    (HEAL, "--rank 4", "--adapter lora"),
    (HEAL, "--kernel full", "--adapter splora"),
    ("evaluate net.py:b --eval-data d", "--base net.py:b", None),
    ("evaluate net.py:b --eval-data d", "--trust", None),
    ("evaluate b.tar --eval-data d", "--input-shape 1,3,8,8", None),
    ("evaluate b.tar --eval-data d", "--weights w.pt", None),
    *(
        ("evaluate a.spa --eval-data d", option, None)
        for option in ("--variant onnx-fp32", "--threads 2", "--timeout 9", "--signers s", "--signers s --identity i")
    ),
    ("verify b --no-run", "--timeout 9", None),
    ("verify b --no-run", "--memory 9", None),
    ("verify b --no-run", "--threads 2", None),
    ("verify b", "--eval-data d", "--device local"),
    ("verify b --device local", "--eval-limit 9", "--eval-data d"),
    ("verify b --device local", "--labels f", "--eval-data d"),
    ("verify b --device local", "--class-offset 1", "--eval-data d"),
    ("verify b --device local", "--skip-bad-files", "--eval-data d"),
    ("verify b --device local", "--seed 1", "--eval-data d"),
    ("verify b --device local", "--fresh", "--eval-data d"),
    ("verify b --device local", "--no-run", None),
    ("verify b --device local", "--python p", None),
    ("verify b --device local", "--memory 9", None),
    ("verify b --device local", "--by-layer", None),
    ("ship b --device local", "--base net.py:b", "c.spa"),
    ("ship b --device local", "--weights f", "c.spa"),
    ("ship b --device local", "--sign k", "c.spa"),
    ("ship b --device local", "--with-base", "c.spa"),
    ("ship --remove birds --to depot", "--group kitchen", None),
    ("ship b --device local", "--kind pi-5", "b --to depot"),
    ("ship b --device local", "--downgrade", "b --to depot"),
    ("ship b --device local", "--unsigned", "b --to depot"),
    ("ship b --to depot", "--volatile", None),
    ("ship b --to depot", "--threads 2", None),
    *(
        ("ship b --to depot", option, None)
        for option in (
            *("--wave 1,100%", "--abort-above 5%", "--take-back", "--watch 10m", "--health-command true"),
            *("--health-every 5s", "--max-latency 20", "--wait-for-lock 5m", "--catch-up"),
        )
    ),
    ("ship --remove birds --device local", "--keep 2", None),
    *(
        ("ship --remove birds --device local", option, None)
        for option in (
            *("--threads 2", "--identity a", "--revoked f", "--wave 1,100%", "--abort-above 5%", "--take-back"),
            *("--watch 10m", "--wait-for-lock 5m", "--volatile", "--trust", "--catch-up"),
        )
    ),
    *(
        ("ship --catch-up", option, None)
        for option in ("--task birds", "--keep 2", "--trust", "--wave 1,100%", "--abort-above 5%", "--take-back")
    ),
    ("ship b --device local", "--take-back", "--wave 1,100%"),
    ("ship b --device local", "--take-back", "--abort-above 5%"),
    ("ship b --device local", "--health-command true", "--watch 10m"),
    ("ship b --device local", "--health-every 5s", "--watch 10m"),
    ("ship b --device local", "--max-latency 20", "--watch 10m"),
    ("ship b --device local --watch 10m", "--health-timeout 5s", "--health-command true"),
    ("ship --remove birds --device local", "--task birds", None),
    ("ship --remove birds --device local", "--signers f", None),
    ("push b oci://h/n", "--with-base", None),
    ("push b oci://h/n", "--license MIT", None),
    ("push b oci://h/n", "--trust", None),
    ("push a.spa oci://h/n", "--base net.py:b", "--with-base"),
    ("push a.spa oci://h/n", "--weights w.pt", "--with-base"),
    ("push b oci://h/n", "--base-model a/b", None),
    ("push b oci://h/n", "--dataset a/b", None),
    ("push b oci://h/n", "--public", None),
    ("push b hf://a/b", "--plain-http", None),
    ("pull hf://a/b -o out", "--plain-http", None),
]  # fmt: skip


def asked(line: str) -> click.Context:
    words = shlex.split(line)
    command = main.get_command(click.Context(main), words[0])
    assert command is not None
    return command.make_context(words[0], words[1:], parent=click.Context(main))


@pytest.mark.parametrize(("line", "option", "more"), CASES)
def test_what_nothing_reads_is_refused_and_what_something_reads_is_not(
    line: str, option: str, more: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refuse_unread(asked(line))
    with pytest.raises(click.UsageError, match=option.split()[0]):
        refuse_unread(asked(f"{line} {option}"))
    if more is not None:
        refuse_unread(asked(f"{line} {option} {more}"))


def test_every_rule_is_tried() -> None:
    tried = {(line.split()[0], option.split()[0]) for line, option, _ in CASES}
    for name, rules in RULES.items():
        command = main.get_command(click.Context(main), name)
        assert command is not None
        names = {parameter.name: parameter.opts[0] for parameter in command.params}
        for option in {option for rule in rules for option in rule.options} - {"identity", "revoked"}:  # need --signers
            assert (name, names[option]) in tried or (name, option) == ("ship", "threads")


def test_a_command_says_it_and_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*EXPORT.split(), "--class-offset", "1"])
    assert result.exit_code == 2
    assert "--class-offset numbers the classes of --eval-data: give that." in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_known_here_is_what_the_library_has() -> None:
    """The rules must be told without torch."""
    for name in method_names():
        if name in _unread._WITHOUT and name != FULL:
            known = kind_named(name).defaults
            assert (("rank" in known), ("kernel" in known)) == (name in _unread._RANKED, name in _unread._KERNELS)
    assert set(_unread._WITHOUT) <= {FULL, *method_names()}
    for name in METHODS:
        told = {"method": name, "allocation": "auto"}
        assert _unread._ranks_all_layers(told) == (PruneConfig(density=0.5, method=name).shares == "global")
        labels = {"eval_data": None, "held_out": None, "data": None, "calibration": "d", "method": name}
        assert bool(_unread._labelled(labels)) == TABLE[name].needs_labels
