"""Coverage-guided fuzzing of one target by atheris: `python -m fuzz.guided metadata CORPUS -max_total_time=60`."""

import sys

import atheris

READERS = [f"vaecodec.{name}" for name in ("format", "entropy", "tiling", "codec", "interop.pillow_plugin")]

with atheris.instrument_imports(include=READERS):
    from fuzz.targets import TARGETS, load_weights


def main() -> None:
    """Command line: the name of a target, then libFuzzer's own arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m fuzz.guided {{{','.join(TARGETS)}}} [FOLDER...] [-libfuzzer_option=VALUE...]")
    if sys.argv[1] == "plugin":
        load_weights()  # or the first file that needs them seems to hang
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
