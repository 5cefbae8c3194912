"""The command line."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from edgespa.device.agent.answers import answers_forget, answers_give
from edgespa.device.agent.cache import have, place, receive, sweep
from edgespa.device.agent.environment import environment_begin, environment_discard, environment_finish
from edgespa.device.agent.facts import facts
from edgespa.device.agent.in_use import follow, put_in_use
from edgespa.device.agent.place import unsafe
from edgespa.device.agent.processes import hold
from edgespa.device.agent.protocol import AgentError, as_error, say
from edgespa.device.agent.sensors import conditions
from edgespa.device.agent.set_up import pull_setup
from edgespa.device.agent.tasks import check_signed, discard, examine, ready, remove, stage, switch
from edgespa.device.agent.versions import tasks
from edgespa.device.agent.watch import settle, watch
from edgespa.device.agent.watched import execute

# Each takes the folder, the request and the stream behind it, and gives the answer.
COMMANDS = {
    "facts": facts,
    "conditions": conditions,
    "have": have,
    "receive": receive,
    "place": place,
    "sweep": sweep,
    "hold": hold,
    "execute": execute,
    "environment-begin": environment_begin,
    "environment-discard": environment_discard,
    "environment-finish": environment_finish,
    "ready": ready,
    "stage": stage,
    "check-signed": check_signed,
    "switch": switch,
    "discard": discard,
    "remove": remove,
    "examine": examine,
    "tasks": tasks,
    "put-in-use": put_in_use,
    "follow": follow,
    "watch": watch,
    "pull-setup": pull_setup,
    "answers-give": answers_give,
    "answers-forget": answers_forget,
}

# Before these, health windows that were interrupted are gone on with.
SETTLED = ("ready", "tasks", "follow")


# Below the folder: what is run, or believed, from there. `edgespa.device.link.boot` has looked at the folder itself.
OURS = (
    *("bin", "bundles", "cache", "environments", "environment/bin", "evaluations", "locks", "pull", "runners"),
    *("tasks", "wheels"),
)


def require_ours(root: Path) -> None:
    """Refuse a folder that somebody else has put something into, or could."""
    for name in OURS:
        others = unsafe(str(root / name))
        if others:
            raise AgentError("unsafe", others)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: FOLDER COMMAND; the request is on stdin. The exit status is 0 also where the answer is an error."""
    folder, command = (sys.argv[1:] if arguments is None else arguments)[:2]
    stream = sys.stdin.buffer
    try:
        function = COMMANDS.get(command)
        if function is None:
            raise AgentError("usage", f"there is no command {command}")
        request: dict[str, Any] = json.loads(stream.readline().decode("utf-8") or "{}")
        root = Path(os.path.expanduser(folder))
        require_ours(root)
        if command in SETTLED:
            signal.alarm(int(request.get("within_s") or 0))
            settle(root)
            signal.alarm(0)
        answer = function(root, request, stream)
        say({"ok": answer})
    except BrokenPipeError:
        os._exit(0)  # nobody listens any more
    except Exception as error:
        say({"error": as_error(error)})
    return 0
