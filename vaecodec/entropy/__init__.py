"""Integers in, bytes out: probability tables, the entropy coder, and packing without loss (no torch)."""
