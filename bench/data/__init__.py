"""Clip sources: one module each, found by name."""
