"""How a device is reached: processes there, the agent's commands, files by their digest, locks."""
