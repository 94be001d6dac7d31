"""Evaluations at a full budget: architectures trained to the end, scored once on test tasks."""
