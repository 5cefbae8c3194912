"""How the agent is begun on a device, put there, and how its answer is found among what a login shell says."""

from __future__ import annotations

import ast
import base64
import json
import zlib
from typing import Any

from edgespa.device.agent.protocol import MARK
from edgespa.system.sources import own_source

OLDEST_PYTHON = (3, 8)
_KEPT_S = 30 * 86400  # of agents of other versions, and of halves of them


def _bare(text: str) -> str:
    """A part of the agent without its words for people: a command line there must be short (9,000 for dropbear)."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.unparse(tree)


# Runs the agent of a digest, or puts it there, or, where nothing can be written, runs what comes along; also in Pythons
# that are too old for the agent, to say so. One line without a quote in it: any login shell passes it on as it is. What
# is run is what was read and has the digest: it is not imported, so nothing beside it, compiled or not, takes part.
_SOURCE = f"""
import sys
sys.path = [path for path in sys.path if path]
sys.dont_write_bytecode = True
import os
def say(text):
    sys.stdout.write("\\n{MARK}" + text + "\\n")
    sys.stdout.flush()
if sys.version_info < {OLDEST_PYTHON!r}:
    say('{{"error": {{"kind": "old", "message": "%d.%d.%d"}}}}' % sys.version_info[:3])
    sys.exit(0)
import errno, hashlib, json, time, types
def refuse(kind, text):
    say(json.dumps({{"error": {{"kind": kind, "message": text}}}}))
    sys.exit(0)
place = {{}}
exec({_bare(own_source("device", "agent", "place.py"))!r}, place)
os.umask(os.umask(0) | 0o022)
folder, name = os.path.join(os.path.expanduser(sys.argv[1]), "agent"), "agent_" + sys.argv[3]
path = os.path.join(folder, name + ".py")
if sys.argv[2] == "install":
    try:
        for each in (os.path.dirname(folder), folder):
            others = place["unsafe"](each)
            if others:
                refuse("unsafe", others)
            os.makedirs(each, exist_ok=True)
        source = sys.stdin.buffer.read()
        if hashlib.sha256(source).hexdigest() != sys.argv[3]:
            raise OSError(errno.EIO, "the connection damaged what was sent")
        new = path + "." + str(os.getpid())
        try:
            with open(new, "wb") as file:
                file.write(source)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except OSError:
            if os.path.exists(new):
                os.remove(new)
            raise
        for other in os.listdir(folder):
            old = os.path.join(folder, other)
            try:
                if other.startswith("agent_") and os.path.getmtime(old) < time.time() - {_KEPT_S}:
                    os.remove(old)
            except OSError:
                pass
        say('{{"ok": {{}}}}')
    except OSError as error:
        kinds = {{"ENOSPC": "full", "EDQUOT": "full", "EROFS": "read-only", "EACCES": "forbidden"}}
        kind = kinds.get(errno.errorcode.get(error.errno), "system")
        refuse(kind, (error.filename or path) + ": " + (error.strerror or str(error)))
    sys.exit(0)
others = place["unsafe"](folder)
if others:
    refuse("unsafe", others)
carried = sys.argv[4:] == ["carried"]
try:
    if carried:
        source = sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))
    else:
        with open(path, "rb") as file:
            source = file.read()
except OSError:
    source = b""
if hashlib.sha256(source).hexdigest() != sys.argv[3]:
    if carried:
        refuse("damaged", "the connection damaged what was sent")
    refuse("absent", "")
agent = sys.modules[name] = types.ModuleType(name)
agent.__file__ = path
exec(compile(source, path, "exec"), agent.__dict__)
sys.exit(agent.main())
"""
BOOT = (
    "import sys;sys.path=[p for p in sys.path if p];import base64,zlib;"
    f"exec(zlib.decompress(base64.b64decode('{base64.b64encode(zlib.compress(_SOURCE.encode(), 9)).decode()}')))"
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
    except (ValueError, TypeError, RecursionError):  # cut in the middle, or none of ours
        return None
