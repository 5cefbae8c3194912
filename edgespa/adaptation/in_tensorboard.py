"""TensorBoard: event files in a folder of the run's own below the one that is asked for."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from edgespa.adaptation.tracking import Row

_NAME = re.compile(r"[\w][\w.-]{0,99}")
_MOST_RUNS = 10_000


class TensorBoard:
    """Writes what TensorBoard reads.

    TensorBoard's own writer does so in a thread, whose failures come late and end it; here each record is written, or
    is not.

    Args:
        folder: That TensorBoard is started on: ``tensorboard --logdir FOLDER``.
    """

    option = "--tensorboard"

    def __init__(self, folder: Path) -> None:
        self.place = str(folder)
        self._folder = folder
        self._run = folder
        self._file: FileIO | None = None
        self._from: int | None = None
        self._config = ""

    def reach(self) -> None:
        """See `edgespa.adaptation.tracking.Sink`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder):
            pass

    def begin(self, name: str, config: Mapping[str, Any], resumed: str | None, step: int) -> str:
        """See `edgespa.adaptation.tracking.Sink`."""
        self._config = "" if resumed is not None else json.dumps(dict(config), indent=1, sort_keys=True, default=str)
        if resumed is not None and _NAME.fullmatch(resumed):
            run, self._from = resumed, step
            (self._folder / run).mkdir(parents=True, exist_ok=True)
        else:
            run = self._new(re.sub(r"[^\w.-]", "_", name).lstrip(".-")[:80] or "run")
        self._run = self._folder / run
        self._open()
        return run

    def _new(self, name: str) -> str:
        """A folder that nobody has: runs are never mixed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, _MOST_RUNS):
            run = name if number == 1 else f"{name}-{number}"
            try:
                (self._folder / run).mkdir()
            except FileExistsError:
                continue
            return run
        raise FileExistsError(f"there are {_MOST_RUNS} runs of the name {name}")

    def add(self, rows: Sequence[Row]) -> None:
        """See `edgespa.adaptation.tracking.Sink`."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        events = []
        for row in rows:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in row.figures.items()]
            events.append(Event(wall_time=row.at, step=row.step, summary=Summary(value=values)))
        if self._file is None:
            self._open()
        try:
            self._write(events)
        except OSError:
            self._drop()  # its last record may be half: readers go on with the next file
            raise

    def end(self, status: str) -> None:
        """See `edgespa.adaptation.tracking.Sink`."""
        self._drop()

    def _open(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        now = time.time_ns()
        path = self._run / f"events.out.tfevents.{now // 10**9:010d}.{now % 10**9:09d}.edgespa"
        self._file = path.open("xb", buffering=0)
        events = [Event(wall_time=now / 1e9, file_version="brain.Event:2")]
        if self._from is not None:  # what the run has from this step on comes again
            again = SessionLog(status=SessionLog.START)
            events.append(Event(wall_time=now / 1e9, step=self._from + 1, session_log=again))
        if self._config:
            events.append(_as_text("config", self._config, now / 1e9))
        try:
            self._write(events)
        except OSError:
            self._drop()
            raise
        self._from, self._config = None, ""

    def _write(self, events: Sequence[Any]) -> None:
        """All of them at once, so that a full disk is seen before the first is half there."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        stream = io.BytesIO()
        writer = RecordWriter(stream)
        for event in events:
            writer.write(event.SerializeToString())
        assert self._file is not None
        left = memoryview(stream.getvalue())
        while left:
            left = left[self._file.write(left) :]

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def _as_text(tag: str, text: str, at: float) -> Any:
    """A text that TensorBoard shows under Text, as code."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    lines = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown's code
    tensor = TensorProto(dtype=DT_STRING, string_val=[lines.encode()])
    kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Event(wall_time=at, step=0, summary=Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=kind)]))
