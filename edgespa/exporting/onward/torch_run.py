"""Runs a ``.pt2`` program, or a Python file with its weights, in a process that has torch and not edgespa.

``python -I torch_run.py pt2|python FILE THREADS [LIBRARY]``: it says ``ready``, then reads the names of
files with inputs (.npz), a line each, writes the outputs beside them, and answers with a line: what went
wrong, or nothing.
"""

import importlib
import importlib.util
import os
import sys
from typing import Any

import numpy as np
import torch


def opened(kind: str, path: str) -> Any:
    """What is called with tensors."""
    if kind == "pt2":
        return torch.export.load(path).module()
    spec = importlib.util.spec_from_file_location("network", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build()


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of an output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def main(kind: str, path: str, threads: str, *libraries: str) -> None:
    """Answer until the input ends."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(int(threads))
    problem = ""
    try:
        for library in libraries:
            importlib.import_module(library)
        network = opened(kind, path)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    answer.write("ready\n")
    answer.flush()
    for line in sys.stdin:
        name = line.strip()
        try:
            if not problem:
                with np.load(name) as arrays, torch.no_grad():
                    inputs = [torch.from_numpy(arrays[key]) for key in sorted(arrays, key=lambda key: int(key[4:]))]
                    outputs = [tensor.contiguous().numpy() for tensor in tensors_in(network(*inputs))]
                np.savez(name + ".out.npz", *outputs)
            said = problem
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        if "edgespa" in sys.modules:
            said = "it has imported edgespa"
        answer.write(" ".join(said.split())[:500] + "\n")
        answer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
