"""Measurements of the codec beside other codecs: run the scripts, see README.md. Not part of the installed package."""
