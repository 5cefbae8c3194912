"""What bundles cost on a device: planned, measured, judged, kept, and beside it what was to be expected."""
