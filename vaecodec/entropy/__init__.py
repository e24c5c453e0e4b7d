"""Integers in, bytes out: the entropy coder and its tables (no torch)."""
