"""Benchmarks of the codec against other codecs; see README.md. Not part of the installed package."""
