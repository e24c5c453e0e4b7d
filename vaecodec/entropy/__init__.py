"""Entropy coding: probability tables, the rANS coder, and lossless tiles (no torch)."""
