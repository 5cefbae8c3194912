"""What edgespa runs on a device, beside the runner of a bundle: facts, files by their digest, locks, watched processes.

The parts are joined into one file (`edgespa.device.assemble.agent_source`) that is put on the device once, by its
digest. It stands alone there: Python 3.8 or newer and nothing else. So the parts import nothing of edgespa but each
other, and no two of them define the same name. A request is one line of JSON on stdin, what follows it is a file's
content; the answer is one line of JSON on stdout, behind `MARK`, because a login shell may talk too.
"""

from edgespa.device.agent.command import main
from edgespa.device.agent.facts import read_facts
from edgespa.device.agent.protocol import MARK, AgentError
from edgespa.device.agent.sensors import read_conditions

__all__ = ["MARK", "AgentError", "main", "read_conditions", "read_facts"]
