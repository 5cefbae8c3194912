"""Which units to remove: criteria, schedules and selection. Pure maths on tensors and numbers."""
