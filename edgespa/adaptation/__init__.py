"""Adaptation: learn a task on a frozen base while pruning it along a schedule.

After each pruning step the units are really gone: the loop trains the small program, so later epochs are cheaper.
The best epoch is chosen on a validation part of the training data, never on test data, and only among epochs at the
final density.
"""
