"""What trtexec writes and says, in the forms of TensorRT 8.0 to 10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.trtexec import (
    failure_of,
    read_layers,
    read_outputs,
    read_times,
    tensorrt_version,
)


def wanted_of(name: str, dtype: str = "float32") -> dict[str, str]:
    """An output, as far as its numbers are read by it."""
    return {"name": name, "dtype": dtype}


@pytest.mark.parametrize(
    ("digits", "version"),
    [("8201", (8, 2, 1)), ("8502", (8, 5, 2)), ("8601", (8, 6, 1)), ("100300", (10, 3, 0)), ("101303", (10, 13, 3))],
)
def test_versions_are_told_by_a_number(digits: str, version: tuple[int, int, int]) -> None:
    assert tensorrt_version(digits) == version


def test_outputs_as_they_are_exported(tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    path.write_text("""[
  { "name" : "probs_phone"
  , "dimensions" : "1x5"
  , "values" : [ 0.0435101, 0.0340782, 5.55826e-02, nan, -inf ]
  }
, { "name" : "classes"
  , "dimensions" : "1x1x3"
  , "values" : [ 16777217, -3, 0 ]
  }
, { "name" : "a \\ name: of "quotes""
  , "dimensions" : "2"
  , "values" : [ 1, 0 ]
  }
, { "name" : "none"
  , "dimensions" : "1x0"
  , "values" : [  ]
  }
]
""")
    odd = 'a \\ name: of "quotes"'
    wanted = [
        wanted_of("classes", dtype="int64"),
        wanted_of("probs_phone"),
        wanted_of(odd, dtype="bool"),
        wanted_of("none"),
    ]
    classes, phone, flags, none = read_outputs(path, wanted)
    np.testing.assert_array_equal(classes, [[[16777217, -3, 0]]])
    np.testing.assert_array_equal(phone, np.float32([[0.0435101, 0.0340782, 0.0555826, np.nan, -np.inf]]))
    assert (classes.dtype, phone.dtype, flags.tolist(), none.shape) == (np.int64, np.float32, [True, False], (1, 0))
    with pytest.raises(RunnerError, match="gives no output other"):
        read_outputs(path, [wanted_of("other")])
    for change in (("-inf", "-inf, 5"), ("nan,", "nan"), ("0.0340782", "0.03x")):
        broken = tmp_path / "broken.json"
        broken.write_text(path.read_text().replace(*change))
        with pytest.raises(RunnerError, match="output probs_phone is"):
            read_outputs(broken, [wanted_of("probs_phone")])
    with pytest.raises(RunnerError, match="has written no outputs"):
        read_outputs(tmp_path / "absent", wanted)


_ROW = (
    '"startEnqMs" : 0.1, "endEnqMs" : 1, "startH2dMs" : 0.2, "endH2dMs" : 0.3, "startComputeMs" : 0.3, '
    '"endComputeMs" : 2.8, "startD2hMs" : 2.8, "endD2hMs" : 2.9, "h2dMs" : 0.1, "computeMs" : 2.5, "d2hMs" : 0.1, '
    '"latencyMs" : 2.7'
)


@pytest.mark.parametrize(
    "row",
    [
        _ROW,  # 8.5 and newer
        f'{_ROW}, "endToEndMs" : 5.5',  # 8.0 to 8.4
        '"startInMs" : 0.1, "endInMs" : 0.2, "inMs" : 0.1, "computeMs" : 2.5, "outMs" : 0.1, "latencyMs" : 2.7',
    ],
)
def test_times_of_all_versions(row: str, tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    other = row.replace('"computeMs" : 2.5', '"computeMs" : 1e+01').replace('"latencyMs" : 2.7', '"latencyMs" : 12')
    path.write_text(f"[\n  {{ {row} }}\n, {{ {other} }}\n]\n")
    assert read_times(path) == [(2.7, 2.5), (12.0, 10.0)]
    with pytest.raises(RunnerError, match="the times that trtexec wrote cannot be read"):
        read_times(tmp_path / "absent")


def test_layers_of_all_versions(tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    path.write_text(
        '[\n  { "count" : 60 }\n'
        ', { "name" : "a, "b" : c", "timeMs" : 30, "averageMs" : 0.75, "medianMs" : 0.5, "percentage" : 80 }\n'
        ', { "name" : "d", "timeMs" : 7.5, "averageMs" : 0.125, "percentage" : 20 }\n]\n'
    )
    assert read_layers(path) == [('a, "b" : c', 0.5), ("d", 0.125)]


_PARSE = """&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --onnx=qat.onnx
[09/01/2025-21:22:14] [I] Start parsing network model.
[09/01/2025-21:22:14] [E] [TRT] ModelImporter.cpp:771: While parsing node number 3 [QuantizeLinear -> "q"]:
[09/01/2025-21:22:14] [E] [TRT] ModelImporter.cpp:772: --- Begin node ---
[09/01/2025-21:22:14] [E] [TRT] ModelImporter.cpp:773: input: "w"
output: "q"
[09/01/2025-21:22:14] [E] [TRT] ModelImporter.cpp:774: --- End node ---
[09/01/2025-21:22:14] [E] [TRT] ModelImporter.cpp:777: ERROR: builtin_op_importers.cpp:1197 In function Helper:
[6] Assertion failed: scaleAllPositive && "Scale coefficients must all be positive"
[09/01/2025-21:22:14] [E] Failed to parse onnx file
[09/01/2025-21:22:14] [I] Finished parsing network model. Parse time: 0.24
[09/01/2025-21:22:14] [E] Parsing model failed
[09/01/2025-21:22:14] [E] Engine set up failed
&&&& FAILED TensorRT.trtexec [TensorRT v8601] # trtexec --onnx=qat.onnx
"""
_BUILD = """[09/01/2025-21:22:14] [W] [TRT] onnx2trt_utils.cpp: Your ONNX model has INT64 weights: error prone
[06/22/2024-21:01:54] [E] Error[9]: [pluginV2Builder.cpp::report::23] Error Code 9: Internal Error (no formats)
[06/22/2024-21:01:54] [E] Engine could not be created from network
[06/22/2024-21:01:54] [E] Building engine failed
&&&& FAILED TensorRT.trtexec [TensorRT v8510] # trtexec --onnx=./sca.onnx
"""
_LIBRARY = "[11/18/2023-17:14:14] [E] Uncaught exception detected: Unable to open library: libnvinfer_plugin.so.8\n"


@pytest.mark.parametrize(
    ("said", "status", "why"),
    [
        (_PARSE, 1, "ERROR: builtin_op_importers.cpp:1197 In function Helper: [6] Assertion failed: scaleAllPositive"),
        (_BUILD, 1, "Error[9]: [pluginV2Builder.cpp::report::23] Error Code 9: Internal Error (no formats)"),
        (_LIBRARY, 1, "Uncaught exception detected: Unable to open library: libnvinfer_plugin.so.8"),
        ("[06/22/2024-21:01:54] [E] Inference set up failed\n", 1, "Inference set up failed"),
        ("trtexec: error while loading shared libraries: libnvinfer.so.8", 127, "trtexec: error while loading shared"),
        (_PARSE, "it was ended by signal 9", "it was ended by signal 9"),
        ("", 3, "it ended with status 3"),
    ],
)
def test_of_a_log_the_error_that_says_most(said: str, status: int | str, why: str) -> None:
    assert failure_of(said, status).removeprefix("ModelImporter.cpp:777: ").startswith(why)
