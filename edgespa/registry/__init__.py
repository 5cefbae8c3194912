"""Hubs and registries: bundles and task files to and from where people keep models."""
