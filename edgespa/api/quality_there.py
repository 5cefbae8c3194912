"""A whole data set through the files of a bundle on a device, and the same here: what each measures, side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgespa.api.evaluating import asking, data_for_bundle
from edgespa.bundle import MANIFEST, Manifest, OpenBundle
from edgespa.config import Preprocess
from edgespa.data import Prepared
from edgespa.data.inputs import arguments, samples_in
from edgespa.device.board import Device
from edgespa.device.host import Facts
from edgespa.device.link.payload import Payload
from edgespa.device.measure.answering import Answering, Asked
from edgespa.device.measure.quality import DeviceQuality, QualityRow
from edgespa.device.measure.saved import journal_folder
from edgespa.device.measure.site import Site
from edgespa.errors import DeviceError
from edgespa.exporting.confined import confined, receive
from edgespa.findings.evaluation import Column
from edgespa.objectives.base import Objective
from edgespa.objectives.evaluate import Tally, sums_of
from edgespa.pixels.values import normalised, to_pixels
from edgespa.system.guarded import private_folder

if TYPE_CHECKING:
    from edgespa.api.options import DataOptions, Progress

_SAMPLES = 64  # of a batch, and its bytes: what is there, and what is answered
_BATCH_BYTES, _ANSWER_BYTES = 4 << 20, 16 << 20
_FETCHED_BYTES = 32 << 20  # of answers at a time
_PORTION_BYTES = 64 << 20
"""Of batches that lie on a device at a time, if there is no space for all."""
_PORTION = 64  # batches, at most: between two of them progress is told
_KEPT_BYTES = 2 << 30
"""Of batches that stay on a device, by their digest, for the next bundle; and at most a quarter of its free space."""
_HEADER = 1 << 12


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some samples.

    Attributes:
        number: Of the batch in the data.
        inputs: As the program takes them.
        targets: What is right.
        file: As it is sent.
    """

    number: int
    inputs: Any
    targets: Any
    file: Payload


class Kept:
    """What each file has measured on each batch, kept here at once: sums, which are small.

    Args:
        folder: For such files; None keeps nothing.
        question: All that the sums depend on, beside the batch.
        fresh: What an earlier run has left is not taken over.
    """

    def __init__(self, folder: Path | None, question: Sequence[Any], *, fresh: bool) -> None:
        digest = hashlib.sha256(json.dumps(question, sort_keys=True, default=str).encode()).hexdigest()[:24]
        self._path = None if folder is None else folder / f"{digest}.jsonl"
        self._rows: dict[str, tuple[Tensor, int, str]] = {}
        if self._path is not None and fresh:
            self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for line in self._path.read_text(encoding="utf-8").splitlines() if self._path is not None else ():
                with contextlib.suppress(ValueError, LookupError, TypeError):  # cut while it was written
                    row = json.loads(line)
                    sums = torch.tensor(row["sums"], dtype=torch.float64).reshape(row["shape"])
                    self._rows[str(row["key"])] = sums, int(row["samples"]), str(row["note"])

    def get(self, key: str) -> tuple[Tensor, int, str] | None:
        """The sums of a batch, of how many samples they are, and what was noted; None where they are not known."""
        return self._rows.get(key)

    def add(self, key: str, sums: Tensor, samples: int, note: str = "") -> None:
        """Keep the sums of a batch; where there is no space for them, the run goes on without."""
        self._rows[key] = sums, samples, note
        row = {"key": key, "sums": sums.flatten().tolist(), "shape": list(sums.shape)}
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**row, "samples": samples, "note": note}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            self._path = None

    def forget(self) -> None:
        """Remove it: the whole is known."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def quality_there(
    bundle: Path,
    opened: OpenBundle,
    site: Site,
    facts: Facts,
    asked: Sequence[Asked],
    evaluation: str,
    options: DataOptions,
    *,
    threads: int = 1,
    timeout_s: float = 600.0,
    fresh: bool = False,
    progress: Progress,
) -> DeviceQuality:
    """Run a data set through the files of a bundle on a device, and here, and measure both.

    Args:
        bundle: As it was named.
        opened: It.
        site: It, ready on the device.
        facts: Of the device.
        asked: What can run there.
        evaluation: Test data.
        options: Which part of them, and whose classes.
        threads: Of the runtimes.
        timeout_s: Of one batch.
        fresh: What an interrupted run has left is not taken over.
        progress: Told ``(done, total, text)``.

    Raises:
        DeviceError: It cannot be reached, or no file can run there.
        DataError: The data cannot be read.
        ConfigError: The data are of another kind, or have other classes.
    """
    began = time.monotonic()
    device = site.connection.device
    data, test, objective = data_for_bundle(bundle, opened, evaluation, options, progress)
    manifest = Payload.of(opened.folder / MANIFEST).sha256
    question = [manifest, device.name, device.host, facts.folder, test.digest, test.name, threads]
    kept = Kept(_folder(), question, fresh=fresh)
    with private_folder() as place:
        answering = Answering(site, manifest, facts.folder, timeout_s=timeout_s)
        work = _Work(opened, test, objective, answering, asked, kept, place)
        work.size, work.answer_bytes = _batch_sizes(opened.manifest, test)
        work.keep = _whole_bytes(test) <= min(_KEPT_BYTES, facts.free_bytes // 4)
        with work.here(threads, timeout_s):
            rows = work.rows(device, progress)
    kept.forget()
    return DeviceQuality(
        device=device.name,
        emulated=device.emulated,
        data=data.name,
        count=len(test),
        measures=tuple(map(Column.of, objective.measures)),
        rows=rows,
        bytes_sent=work.bytes_sent,
        taken_over=work.taken_over,
        seconds=time.monotonic() - began,
    )


def _folder() -> Path | None:
    found = journal_folder()
    return None if found is None else found.parent / "evaluations"


def _batch_sizes(manifest: Manifest, test: Prepared) -> tuple[int, int]:
    """Samples at a time, in multiples of what a runner takes at once, as both sides cut them; and bytes of answers.

    Outputs are said in numbers of at most eight bytes, and those of free sizes are taken to be within `_ANSWER_BYTES`.
    """
    own = max(1, _whole_bytes(test) // max(1, len(test)))
    outputs = sum(math.prod(size for size in spec.shape[1:] if isinstance(size, int)) for spec in manifest.outputs)
    most = min(_SAMPLES, _BATCH_BYTES // own, _ANSWER_BYTES // max(1, 4 * outputs))
    free = any(not isinstance(size, int) for spec in manifest.outputs for size in spec.shape[1:])
    samples = max(8, most // 8 * 8)
    return samples, max(_ANSWER_BYTES if free else 0, 4 * outputs * samples)


def _whole_bytes(test: Prepared) -> int:
    how = test.preprocess
    assert how is not None
    return len(test) * how.channels * how.height * how.width * (4 if test.preprocessed else 1)


class _Work:
    """Portions of the data, each through every file there and here."""

    def __init__(
        self,
        opened: OpenBundle,
        test: Prepared,
        objective: Objective,
        answering: Answering,
        asked: Sequence[Asked],
        kept: Kept,
        place: Path,
    ) -> None:
        self.opened, self.test, self.objective, self.answering = opened, test, objective, answering
        self.asked, self.kept, self.place = asked, kept, place
        self.size, self.answer_bytes, self.keep = 8, _ANSWER_BYTES, True
        self.bytes_sent = self.taken_over = 0
        self._there = [Tally(objective) for _ in asked]
        self._numbers = ["" for _ in asked]
        self._failed: dict[int, str] = {}
        self._here: dict[str, Tally] = {}
        self._runs: dict[str, Any] = {}
        self._runtimes: dict[str, str] = {}
        self._why_not: dict[str, str] = {}

    @contextlib.contextmanager
    def here(self, threads: int, timeout_s: float) -> Iterator[None]:
        """Each file opened here too, in a process of its own."""
        with contextlib.ExitStack() as stack:
            for name in dict.fromkeys(each.variant for each in self.asked):
                try:
                    variant = self.opened.manifest.variant(name)
                    own = confined(self.opened.folder, variant, threads=threads, timeout_s=timeout_s)
                    run = stack.enter_context(own)
                except DeviceError as error:  # the device may have a runtime that is not here
                    self._why_not[name] = error.message
                    continue
                self._runs[name], self._runtimes[name] = asking(run), run.runtime
                self._here[name] = Tally(self.objective)
            yield

    def rows(self, device: Device, progress: Progress) -> tuple[QualityRow, ...]:
        """What each file measures, there and here."""
        total = self.test.num_batches(self.size)
        done = 0
        for portion in self._portions():
            progress(done, total, f"{device.name}: batches")
            self._portion(portion, lambda sent, all_, at=done: progress(at, total, _sending(device.name, sent, all_)))
            done += len(portion)
            progress(done, total, f"{device.name}: batches")
        self.answering.sweep()
        if len(self._failed) == len(self.asked):
            raise DeviceError(
                f"{device.name}: no file could be run there: {'; '.join(self._failed.values())}",
                f"see what it lacks: edgespa devices check {device.asked}",
            )
        return tuple(self._row(index, each) for index, each in enumerate(self.asked))

    def _row(self, index: int, asked: Asked) -> QualityRow:
        failed = self._failed.get(index)
        here = self._here.get(asked.variant)
        return QualityRow(
            variant=asked.variant,
            runtime=asked.runtime,
            arithmetic=self._numbers[index] or None,
            values=None if failed else self._values(self._there[index]),
            error=failed,
            runtime_here=self._runtimes.get(asked.variant),
            here=None if here is None else self._values(here),
            why_not_here=self._why_not.get(asked.variant),
        )

    def _values(self, tally: Tally) -> Mapping[str, float]:
        values = self.objective.values(tally.whole(), self.test.targets.table)
        pairs = zip(self.objective.measures, values, strict=True)
        return {measure.name: value for measure, value in pairs if math.isfinite(value)}

    def _portions(self) -> Iterator[list[Batch]]:
        """Batches, each written to a file, as many as may lie on the device at a time."""
        portion: list[Batch] = []
        size = 0
        for number, (inputs, targets) in enumerate(self.test.batches(self.size)):
            file = _written(self.place / f"{number}.batch", inputs, self.test)
            batch = Batch(number, inputs, targets, file)
            portion.append(batch)
            size += batch.file.size_bytes
            if size >= _PORTION_BYTES or len(portion) == _PORTION:
                yield portion
                self._drop(portion)
                portion, size = [], 0
        if portion:
            yield portion
            self._drop(portion)

    def _drop(self, portion: Sequence[Batch]) -> None:
        for batch in portion:
            batch.file.path.unlink(missing_ok=True)

    def _portion(self, portion: Sequence[Batch], sending: Any) -> None:
        files = [each.file for each in portion]
        keys = {
            index: [f"{asked.folder} {each.number} {each.file.sha256}" for each in portion]
            for index, asked in enumerate(self.asked)
            if index not in self._failed
        }
        open_ones = {index: own for index, own in keys.items() if any(self.kept.get(key) is None for key in own)}
        folder = None
        if open_ones:
            folder, sent = self.answering.place(files, sending)
            self.bytes_sent += sent
        for index, own in keys.items():
            try:
                if index in open_ones and folder is not None:
                    self._answer(folder, index, own, portion)
                else:
                    self.taken_over += len(own)
                for key in own:
                    sums, samples, note = _known(self.kept, key)
                    self._there[index].add(sums, samples)
                    self._numbers[index] = self._numbers[index] or note
            except DeviceError as error:
                if error.__class__ is not DeviceError:  # the way to it, or its disk: not this file's
                    raise
                self._failed[index] = error.message
        for name, run in self._runs.items():
            self._own(name, run, portion)
        if folder is not None:
            self.answering.forget(folder, files, keep=self.keep)

    def _answer(self, folder: str, index: int, keys: Sequence[str], portion: Sequence[Batch]) -> None:
        asked = self.asked[index]
        numbers = self.answering.run(folder, asked, len(portion))
        missing = [number for number, key in enumerate(keys) if self.kept.get(key) is None]
        self.taken_over += len(keys) - len(missing)
        at_once = max(1, _FETCHED_BYTES // self.answer_bytes)
        for start in range(0, len(missing), at_once):
            some = missing[start : start + at_once]
            contents = self.answering.fetch(folder, asked, some, 2 * self.answer_bytes + _HEADER)
            for number, content in zip(some, contents, strict=True):
                self._keep(keys[number], self._outputs(content, portion[number]), portion[number], numbers)

    def _outputs(self, content: bytes, batch: Batch) -> Any:
        """What a device says of a batch, as tensors; it is not trusted more than any other source."""
        count = samples_in(batch.inputs)
        try:
            _, arrays = receive(io.BytesIO(content))
            wrong = not arrays or any(each.shape[:1] != (count,) for each in arrays)
        except (ValueError, EOFError) as error:
            raise DeviceError(f"its answer is odd: {error}", "run it again") from error
        if wrong or len(arrays) != len(self.opened.manifest.outputs):
            raise DeviceError(f"it gives {[each.shape for each in arrays]} for {count} samples", "run it again")
        outputs = [torch.from_numpy(each.copy()) for each in arrays]
        return outputs[0] if len(outputs) == 1 else outputs

    def _own(self, name: str, run: Any, portion: Sequence[Batch]) -> None:
        """The same here; what an earlier run has measured is not measured again."""
        for batch in portion:
            key = f"here {name} {self._runtimes[name]} {batch.number} {batch.file.sha256}"
            if self.kept.get(key) is None:
                self._keep(key, run(*arguments(batch.inputs)), batch, "")
            sums, samples, _ = _known(self.kept, key)
            self._here[name].add(sums, samples)

    def _keep(self, key: str, outputs: Any, batch: Batch, note: str) -> None:
        sums = sums_of(outputs, batch.targets, self.test, self.objective)
        self.kept.add(key, sums, samples_in(batch.inputs), note)


def _known(kept: Kept, key: str) -> tuple[Tensor, int, str]:
    found = kept.get(key)
    assert found is not None
    return found


def _sending(name: str, sent: float, total: float) -> str:
    return f"{name}: send batches, {sent / 1e6:.0f} of {total / 1e6:.0f} MB"


def _written(path: Path, inputs: Any, test: Prepared) -> Payload:
    """A batch as a file: pixels where the device makes the very same inputs of them, else the inputs."""
    arrays = [each.numpy() for each in arguments(inputs)]
    how = test.preprocess
    pixels = None if how is None or test.preprocessed or len(arrays) > 1 else _pixels(arrays[0], how)
    named = {"pixels_0": pixels} if pixels is not None else {f"input_{i}": each for i, each in enumerate(arrays)}
    with path.open("wb") as file:
        np.savez_compressed(file, **named)
    return Payload.of(path)


def _pixels(array: Any, how: Preprocess) -> Any:
    plain = how.model_dump()
    pixels = to_pixels(array, plain)
    return pixels if np.array_equal(normalised(pixels, plain), array) else None
