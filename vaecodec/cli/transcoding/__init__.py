"""Encodes large collections on one machine or a cluster: locations, manifest, worker, run, Ray."""
