"""Many pictures to .vaec files, on one machine or a cluster: places, the manifest, the worker, the run, Ray."""
