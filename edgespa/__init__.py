"""edgespa: small, fast, proved-correct per-task vision models for edge devices."""

__version__ = "0.1.0"
