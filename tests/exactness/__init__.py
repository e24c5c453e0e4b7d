"""Exactness: the same file gives the same integers on every machine, and almost the same pixels.

`settings` lists what a machine or a caller may have switched on; `probe` decodes files under one of them, in a process
and perhaps a torch of its own; `oracle` is the scale network once more, in numpy's int64, and `numpy_engine` an
engine made of it; `native` runs the native engine on every instruction set and number of threads; `builds` are a
hundred ways of computing the network wrongly, which the start-up self-test must see; `pictures` are what is encoded;
`driver` is the long form (`python -m exactness.driver`), test_exactness.py, test_exact.py, test_self_test.py and
test_engine.py the short.
"""
