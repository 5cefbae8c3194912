"""Measuring and checking bundles where they run; no torch in here."""

from edgespa.device.assemble import runner_source

__all__ = ["runner_source"]
