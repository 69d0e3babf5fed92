"""Measuring answers: held-out questions, arms, tables."""
