"""Measuring and checking bundles where they run; no torch in here."""

from pathlib import Path

RUNNER_SOURCE = Path(__file__).with_name("runner.py")
"""The stand-alone runner that goes into every bundle as ``run.py``, byte for byte."""
