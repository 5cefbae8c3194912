"""Options that nothing reads in the company of the others: an error that says what they are for, not silence.

What only allows something (``--overwrite``, ``--trust``, ``--yes``, ``--again``, ``--fresh``) may be given where there
is nothing to allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

Values = Mapping[str, Any]
SAID = "said"
"""Among the values: the names of what was typed."""


class Rule(NamedTuple):
    """When options are read.

    Attributes:
        options: Names of parameters.
        read: Says so, of all parameters of the command.
        why: What they are for, behind their names.
    """

    options: tuple[str, ...]
    read: Callable[[Values], Any]
    why: str


def _of_task(values: Values) -> bool:
    return str(values["model"]).endswith(".spa")


def _is_bundle(values: Values) -> bool:
    path = Path(str(values["model"]))
    return path.suffix == ".tar" or path.is_dir()


def _prunes(values: Values) -> bool:
    said = "density" in values[SAID]  # 1 too, as scripts say it that go through several
    return said or (values["density"] or 1) < 1 or values["budget"][1] is not None


def _has_int8(values: Values) -> bool:
    return "int8" in values["precisions"]


def _ranks_all_layers(values: Values) -> bool:
    alone = values["method"].startswith("layer-") or values["method"].endswith("-in-change")
    return bool(values["allocation"] == "global" or (values["allocation"] == "auto" and not alone))


def _labelled(values: Values) -> Any:
    by_labels = values["method"] in ("act-grad", "layer-act-grad")
    return values["eval_data"] or values["held_out"] or values["data"] or (by_labels and values["calibration"])


_RANKED, _KERNELS = ("splora", "lora", "mixing", "repadapter"), ("splora", "splopa")
_WITHOUT = {"ssf", "convpass", "splopa", "full", *_RANKED}  # of other packages, nothing is known here
_TASK = (
    Rule(("base",), _of_task, "is of a TASK file, and MODEL is none"),
    Rule(
        ("input_shape",), lambda values: not _of_task(values), "is of a MODEL: a TASK file has the sizes of its inputs"
    ),
)

_EVAL_LIMIT = Rule(("eval_limit",), lambda values: values["eval_data"], "is of --eval-data, which is not given")

_OF_WINDOW = (
    Rule(
        ("health_command", "health_every_s", "max_latency_ms"),
        lambda values: values["watch_s"] is not None,
        "is of a health window: give --watch, 10m say",
    ),
    Rule(("health_timeout_s",), lambda values: values["health_command"], "is of --health-command"),
)
RULES: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        "inspect": (
            *_TASK,
            Rule(("show_all",), lambda values: not values["as_json"], "is of the table; --json has all"),
        ),
        "search": (
            _EVAL_LIMIT,
            Rule(
                ("device", "threads"),
                lambda values: "latency" in values["goals"] or "latency_ms" in dict(values["budget"]),
                "is of latencies: add --goal latency",
            ),
            Rule(("jobs",), lambda values: values["ray"] is None, "is of this machine; a cluster has its own cores"),
        ),
        "sweep": (
            Rule(("jobs",), lambda values: values["ray"] is None, "is of this machine; a cluster has its own cores"),
            Rule(("jobs", "ray"), lambda values: not values["dry_run"], "is of what is done; --dry-run does nothing"),
        ),
        "export": (
            *_TASK,
            Rule(
                ("limit",),
                lambda values: values["calibration"],
                "is of --calibration, which is not given; of --eval-data there is --eval-limit",
            ),
            Rule(
                ("skip_bad_files",),
                lambda values: values["calibration"] or values["eval_data"],
                "is of --calibration and --eval-data, and neither is given",
            ),
            _EVAL_LIMIT,
            Rule(
                ("class_offset",), lambda values: values["eval_data"], "numbers the classes of --eval-data: give that"
            ),
            Rule(
                ("int8_tolerance", "int8_max_loss"),
                lambda values: {"int8", "int8-weights"} & set(values["precisions"]),
                "is of int8 files: add --precision int8",
            ),
            Rule(
                ("int8_calibration", "int8_rounding", "int8_scheme", "int8_io", "calibration_images"),
                _has_int8,
                "is of int8 files: add --precision int8",
            ),
            Rule(("int8_scheme",), lambda values: "onnx" in values["formats"], "is of ONNX files: add --format onnx"),
            Rule(("int8_io",), lambda values: "tflite" in values["formats"], "is of TFLite files: add --format tflite"),
            Rule(
                ("int8_slowdown",),
                lambda values: set(values["precisions"]) - {"fp32"},
                "is of files smaller than fp32: add --precision int8",
            ),
            Rule(
                ("also_sizes",), lambda values: "tflite" in values["formats"], "is of TFLite files: add --format tflite"
            ),
            Rule(("layout",), lambda values: "tflite" in values["formats"], "is of TFLite files: add --format tflite"),
            Rule(
                ("onnx_runtime", "opset"),
                lambda values: "onnx" in values["formats"],
                "is of ONNX files: add --format onnx",
            ),
            Rule(
                ("device",),
                lambda values: "onnx" in values["formats"] or _has_int8(values),
                "decides on ONNX files and on int8, and neither is asked for",
            ),
        ),
        "adapt": (
            _EVAL_LIMIT,
            Rule(
                ("validation", "hold_out"),
                lambda values: not values["validation_data"],
                "holds out a part of --data, and --validation-data is given",
            ),
            Rule(
                (
                    *("normalisation", "round_to", "min_width", "keep", "only", "criterion", "schedule", "prune_steps"),
                    *("prune_fraction", "recovery_epochs", "lr_restart", "group_sparsity"),
                ),
                _prunes,
                "is of pruning, and nothing is pruned without --density below 1 (or --budget latency_ms=X)",
            ),
            Rule(("quantise_share",), lambda values: values["quantise"], "is of --quantise, which is not given"),
            Rule(
                ("prune_steps",),
                lambda values: values["schedule"] in ("linear", "cubic"),
                "is of --schedule linear and cubic",
            ),
            Rule(("prune_fraction",), lambda values: values["schedule"] == "stepwise", "is of --schedule stepwise"),
            Rule(
                ("distill_weight", "distill_temperature"),
                lambda values: values["distill"],
                "is of --distill, which is not given",
            ),
            Rule(
                ("rank",),
                lambda values: values["start"] or values["adapter"] not in _WITHOUT - set(_RANKED),
                f"is of --adapter {', '.join(_RANKED)}",
            ),
            Rule(
                ("kernel",),
                lambda values: values["start"] or values["adapter"] not in _WITHOUT - set(_KERNELS),
                f"is of --adapter {', '.join(_KERNELS)}",
            ),
        ),
        "prune": (
            Rule(
                ("limit",),
                lambda values: any(values[name] for name in ("calibration", "held_out", "data")),
                "is of data, and there are none; of --eval-data there is --eval-limit",
            ),
            Rule(
                ("skip_bad_files",),
                lambda values: any(values[name] for name in ("calibration", "held_out", "eval_data", "data")),
                "is of data, and there are none",
            ),
            _EVAL_LIMIT,
            Rule(("labels", "class_offset"), _labelled, "numbers the classes of labelled data: give --eval-data"),
            Rule(("normalisation",), _ranks_all_layers, "is of rankings over all layers: --allocation global"),
            Rule(
                ("held_out",),
                lambda values: values["allocation"] == "equal-accuracy",
                "is of --allocation equal-accuracy; --eval-data tells the accuracy in the end",
            ),
            Rule(
                ("activations",),
                lambda values: values["calibration"] and values["reweight"] is not False,
                "is of new weights, which are fitted on --calibration",
            ),
            Rule(("heal_steps", "tensorboard", "mlflow"), lambda values: values["heal"], "is of --heal"),
            Rule(
                ("alpha",),
                lambda values: values["keep_depth"] is None,
                "is of scores, and --keep-depth says what stays",
            ),
            Rule(
                ("metric", "score_images"),
                lambda values: values["keep_depth"] is None or values["plot"],
                "is of scores, and --keep-depth says what stays",
            ),
        ),
        "heal": (
            _EVAL_LIMIT,
            Rule(
                ("labels", "class_offset", "objective"),
                lambda values: values["eval_data"],
                "is of labelled data: give --eval-data",
            ),
            Rule(
                ("rank",),
                lambda values: values["adapter"] not in _WITHOUT - set(_RANKED),
                f"is of --adapter {', '.join(_RANKED)}",
            ),
            Rule(
                ("kernel",),
                lambda values: values["adapter"] not in _WITHOUT - set(_KERNELS),
                f"is of --adapter {', '.join(_KERNELS)}",
            ),
        ),
        "evaluate": (
            Rule(("base", "trust"), _of_task, "is of a TASK file, and what is evaluated is none"),
            Rule(
                ("input_shape", "weights"),
                lambda values: not _is_bundle(values),
                "is of a MODEL or TASK: a bundle has the sizes of its inputs, and its weights",
            ),
            Rule(
                ("variants", "threads", "timeout", "signers", "identity", "revoked"),
                _is_bundle,
                "is of a bundle, and what is evaluated is none",
            ),
        ),
        "push": (
            Rule(
                ("with_base", "license", "trust"),
                lambda values: str(values["source"]).endswith(".spa"),
                "is of TASK files, and a bundle is pushed",
            ),
            Rule(("base", "weights"), lambda values: values["with_base"], "is of --with-base, which is not given"),
            Rule(
                ("base_model", "datasets", "public"),
                lambda values: values["target"].startswith("hf://"),
                "is of the hub, hf://",
            ),
            Rule(("plain_http",), lambda values: not values["target"].startswith("hf://"), "is of a registry, oci://"),
        ),
        "pull": (
            Rule(("plain_http",), lambda values: not values["source"].startswith("hf://"), "is of a registry, oci://"),
        ),
        "verify": (
            Rule(
                ("threads", "timeout", "memory"),
                lambda values: not values["no_run"],
                "is of what runs the files, and --no-run runs none",
            ),
            Rule(
                ("eval_data",),
                lambda values: values["device"],
                "is of files on a device: give --device; here it is edgespa evaluate BUNDLE",
            ),
            Rule(
                ("eval_limit", "labels", "class_offset", "skip_bad_files", "seed", "fresh"),
                lambda values: values["eval_data"],
                "is of --eval-data",
            ),
            Rule(
                ("no_run", "pythons", "memory", "by_layer"),
                lambda values: not values["device"],
                "is of this machine, and with --device the files run there",
            ),
        ),
        "ship": (
            Rule(
                ("base", "weights", "with_base"),
                lambda values: any(str(each).endswith(".spa") for each in values["sources"]),
                "is of TASK files, and none is shipped",
            ),
            Rule(
                ("sign_key",),
                lambda values: values["to"] or any(str(each).endswith(".spa") for each in values["sources"]),
                "is of TASK files and of --to, and there is neither",
            ),
            Rule(
                ("kinds", "downgrade", "unsigned"),
                lambda values: values["to"],
                "is of what devices pull: give --to FOLDER",
            ),
            Rule(
                (
                    *("volatile", "threads", "waves", "abort_above", "take_back", "watch_s", "health_command"),
                    *("health_every_s", "max_latency_ms", "wait_for_lock_s", "catch_up"),
                ),
                lambda values: not values["to"],
                "is of a device that is connected to, and --to connects to none",
            ),
            Rule(
                ("kinds", "downgrade"),
                lambda values: values["remove"] is None,
                "is of what is shipped, and --remove ships nothing",
            ),
            Rule(
                ("groups",),
                lambda values: not values["to"] or values["remove"] is None,
                "is of what is shipped, and --remove ships nothing",
            ),
            Rule(
                (
                    *("task", "keep", "threads", "signers", "identity", "revoked", "waves", "abort_above", "take_back"),
                    *("watch_s", "wait_for_lock_s", "volatile", "trust", "catch_up"),
                ),
                lambda values: values["remove"] is None,
                "is of what is shipped, and --remove ships nothing",
            ),
            Rule(
                ("task", "keep", "trust", "waves", "abort_above", "take_back"),
                lambda values: not values["catch_up"],
                "is of what is named to be shipped, and --catch-up ships what groups are to have",
            ),
            Rule(
                ("take_back",),
                lambda values: values["waves"] or values["abort_above"] is not None,
                "is of a roll-out that is stopped: give --wave or --abort-above",
            ),
            *_OF_WINDOW,
        ),
    }
)


def refuse_unread(ctx: click.Context) -> None:
    """Refuse what was typed and is read by nothing.

    Args:
        ctx: Of a command, parsed.

    Raises:
        click.UsageError: It names the options, and says what they are for.
    """
    names = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    typed = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    values = {**ctx.params, SAID: typed}
    for rule in RULES.get(str(ctx.command.name), ()):
        given = [name for name in rule.options if name in typed]
        if given and not rule.read(values):
            raise click.UsageError(f"{', '.join(names[name] for name in given)} {rule.why}.")
