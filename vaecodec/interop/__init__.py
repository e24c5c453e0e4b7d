"""Faces to other libraries' worlds."""
