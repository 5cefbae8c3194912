"""Bundles on their way to a device and back: versions of tasks that are whole or not in use."""
