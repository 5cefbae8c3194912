"""How the agent is begun on a device, put there, and how its answer is found among what a login shell says."""

from __future__ import annotations

import base64
import json
from typing import Any

from edgespa.device.agent.protocol import MARK

OLDEST_PYTHON = (3, 8)

# Runs the agent of a digest, or puts it there, or, where nothing can be written, runs what comes along; also in Pythons
# that are too old for the agent, to say so. One line without a quote in it: any login shell passes it on as it is.
# Imported, so that it is compiled only once.
_SOURCE = f"""
import sys
sys.path = [path for path in sys.path if path]
import os
def say(text):
    sys.stdout.write("\\n{MARK}" + text + "\\n")
    sys.stdout.flush()
if sys.version_info < {OLDEST_PYTHON!r}:
    say('{{"error": {{"kind": "old", "message": "%d.%d.%d"}}}}' % sys.version_info[:3])
    sys.exit(0)
import errno, hashlib, json
folder, name = os.path.join(os.path.expanduser(sys.argv[1]), "agent"), "agent_" + sys.argv[3]
path = os.path.join(folder, name + ".py")
if sys.argv[2] == "install":
    try:
        os.makedirs(folder, exist_ok=True)
        source = sys.stdin.buffer.read()
        if hashlib.sha256(source).hexdigest() != sys.argv[3]:
            raise OSError(errno.EIO, "the connection damaged what was sent")
        with open(path + "." + str(os.getpid()), "wb") as file:
            file.write(source)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)
        say('{{"ok": {{}}}}')
    except OSError as error:
        kinds = {{"ENOSPC": "full", "EDQUOT": "full", "EROFS": "read-only", "EACCES": "forbidden"}}
        kind = kinds.get(errno.errorcode.get(error.errno), "system")
        text = (error.filename or path) + ": " + (error.strerror or str(error))
        say(json.dumps({{"error": {{"kind": kind, "message": text}}}}))
    sys.exit(0)
if sys.argv[4:] == ["carried"]:
    source = sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))
    if hashlib.sha256(source).hexdigest() != sys.argv[3]:
        say('{{"error": {{"kind": "damaged", "message": "the connection damaged what was sent"}}}}')
        sys.exit(0)
    module = sys.modules[name] = type(sys)(name)
    exec(compile(source, name, "exec"), module.__dict__)
    sys.exit(module.main())
try:
    with open(path, "rb") as file:
        there = hashlib.sha256(file.read()).hexdigest() == sys.argv[3]
except OSError:
    there = False
if not there:
    say('{{"error": {{"kind": "absent", "message": ""}}}}')
    sys.exit(0)
sys.path.append(folder)
sys.exit(__import__(name).main())
"""
BOOT = (
    "import sys;sys.path=[p for p in sys.path if p];import base64;"
    f"exec(base64.b64decode('{base64.b64encode(_SOURCE.encode()).decode()}'))"
)
"""What ``python -c`` runs on the device; its arguments are the folder, the command, the agent's digest, and
``carried`` where the agent comes in front of the request: its size in a line, then itself."""


def answer_in(line: bytes) -> dict[str, Any] | None:
    """The agent's answer, if the line is one."""
    text = line.decode("utf-8", "replace").strip()
    if not text.startswith(MARK):
        return None
    try:
        return dict(json.loads(text[len(MARK) :]))
    except (ValueError, TypeError):  # cut in the middle
        return None
