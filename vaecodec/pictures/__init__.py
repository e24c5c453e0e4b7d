"""Reads and writes picture files by rows if possible, and through Pillow otherwise."""
