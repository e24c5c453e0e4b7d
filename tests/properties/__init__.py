"""Round trips: whatever picture a caller may hold comes back as docs/reliability.md promises.

`laws` draws cases and says what must hold of each; `driver` is the long form (`python -m properties.driver`),
tests/test_properties.py the short.
"""
