"""Pages and drawings from plain values: no torch."""
