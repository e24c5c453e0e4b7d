"""Fuzzing: damaged and hostile files by the thousand, and the laws that a reader of strangers' files must keep.

`parts` takes files apart and seals them again, by docs/format.md alone; `seeds` makes the small files that everything
starts from; `mutators` and `forge` make mutants of them; `laws` says what may come of a mutant; `campaign` runs many
and measures; `targets` are functions of any bytes, which `guided` gives to atheris; `driver` is the long form
(`make fuzz`), tests/test_fuzz.py the short. Files that once broke a law stay in `regressions/`.
"""
