"""The native core under sanitizers, `make sanitize`: conformance vectors, the corpus of fuzzing, and mutants of it.

Usage: `python tests/sanitized_core.py [--mutants N] [--seed N] [--out FILE]`, under AddressSanitizer and UBSan, or
`--races`, under ThreadSanitizer: threads that share an engine. It builds such a core, and starts itself anew with it.
Linux with g++ or clang++ only. The first complaint of a sanitizer ends it with an error.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fuzz.parts import Parts

    from vaecodec import Codec
    from vaecodec.format.records import Tile

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "results" / "reliability" / "sanitizers.json"
MUTANTS = 2000
FORGED_SHARE, PREVIEW_SHARE = 0.05, 0.1
MOST_LATENTS = 300  # of a tile that is damaged: larger ones take longer and reach nothing else
SETTINGS = {
    # Python itself keeps memory to its end, and what it allocates should have a sanitizer's margins, too.
    "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
}  # fmt: skip


# The C library frees what a thread that has ended held, in another one; it knows of the end from the system, unseen.
NO_RACES = "race:_dl_deallocate_tls\n"


def start(options: argparse.Namespace) -> int:
    """Build the core, and run the checks in a process that loads the sanitizer first, as it must."""
    sys.path.insert(0, str(ROOT))
    import build_core

    compiler = build_core.compiler() or ["c++"]
    names, flags = ("libasan.so", "libubsan.so"), build_core.SANITIZED
    if options.races:
        names, flags = ("libtsan.so",), build_core.RACES
    with tempfile.TemporaryDirectory() as folder:
        core = Path(folder, build_core.library_name())
        build_core.build(compiler, core, flags=flags)
        found = [subprocess.check_output([*compiler, f"-print-file-name={name}"], text=True).strip() for name in names]
        # ThreadSanitizer needs memory to lie where it expects it.
        Path(folder, "no_races").write_text(NO_RACES)
        races = {"TSAN_OPTIONS": f"halt_on_error=1:suppressions={folder}/no_races"}
        command = ["setarch", "--addr-no-randomize"] if options.races else []
        command += [sys.executable, __file__, *sys.argv[1:], "--core", str(core)]
        return subprocess.call(command, env=os.environ | SETTINGS | races | {"LD_PRELOAD": ":".join(found)})


def codec_of(core: Path) -> "Codec":
    """One that computes with this core."""
    from vaecodec import Codec

    import_module("vaecodec.model.native_engine.binding").library_path = lambda: core
    return Codec(engine="native")


# --- memory and undefined behaviour -----------------------------------------------------------------------------------


def check_the_sanitizer() -> None:
    """It must see a core that is told of more bytes than there are."""
    native = import_module("vaecodec.model.native_engine.binding").library()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        native.vaec_reader_start(bytes(16), bytes(40), 48)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        raise RuntimeError("the sanitizer is blind: it has let the core read beyond a payload")


def check_vectors(codec: "Codec") -> int:
    """All conformance vectors on every instruction set, at every scale, and pictures encoded; returns how many."""
    from vaecodec.cli import conformance
    from vaecodec.model.native_engine.binding import levels, use_level

    manifest = conformance.manifest()
    for level in levels():
        use_level(level)
        for name, facts in manifest["valid"].items():
            conformance.check_valid(codec, name, facts)
            for scale in (1 / 2, 1 / 4, 1 / 8):
                codec.decode(conformance.folder() / "vectors" / f"{name}.vaec", scale=scale)
        for name, facts in manifest["invalid"].items():
            conformance.check_invalid(codec, name, facts)
        rng = np.random.default_rng(0)
        for size in ((1, 1, 3), (45, 208, 3), (130, 71, 4)):
            codec.decode(codec.encode(rng.integers(100, 140, size).astype(np.uint8), 30))
    return len(manifest["valid"]) + len(manifest["invalid"])


def check_corpus(codec: "Codec", files: "dict[str, Parts]") -> int:
    """Whatever fuzzing starts from, under every target, and what once broke a law; returns how many."""
    from fuzz import laws, seeds, targets
    from fuzz.mutators import FORGED, Mutant

    count, judge = 0, laws.Judge(codec, files.values(), max_pixels=targets.MAX_PIXELS)
    with tempfile.TemporaryDirectory() as name:
        seeds.write_corpus(Path(name), files)
        for target, act in targets.TARGETS.items():
            for path in sorted(Path(name, target).iterdir()):
                act(path.read_bytes())
                count += 1
    for path in sorted((ROOT / "tests" / "fuzz" / "regressions").iterdir()):
        judge.decode(Mutant(path.read_bytes(), FORGED, True))
        count += 1
    return count


def learned_tiles(files: "dict[str, Parts]") -> "list[tuple[Tile, tuple[int, int], int]]":
    """Small learned tiles of the vectors and of files: each with its rows and columns of latents, and its quality."""
    from vaecodec.cli import conformance
    from vaecodec.format import container
    from vaecodec.format.records import TileMode
    from vaecodec.tiling.canvas import Rect

    vectors = [conformance.folder() / "vectors" / f"{name}.vaec" for name in conformance.manifest()["valid"]]
    found = []
    for data in (*(path.read_bytes() for path in vectors), *(parts.data for parts in files.values())):
        stream = container.read(data)
        for tile, box in zip(stream.tiles, stream.header.boxes(), strict=True):
            rows, columns = Rect.of(box).latents.size
            if tile and tile.mode == TileMode.LEARNED and rows * columns < MOST_LATENTS:
                found.append((tile, (rows, columns), stream.header.quality))
    return found


def check_mutants(codec: "Codec", files: "dict[str, Parts]", count: int, seed: int) -> Counter[str]:
    """Half of them files that come as far as the core, half payloads that it is given as they are; what came of them.

    Raises:
        BrokenLawError: one breaks a law of fuzzing.
    """
    from fuzz import laws, targets

    from vaecodec.model.native_engine.binding import levels, use_level

    rng, outcomes = random.Random(seed), Counter[str]()
    tiles, judge = learned_tiles(files), laws.Judge(codec, files.values(), max_pixels=targets.MAX_PIXELS)
    damaged = sealed_mutants(rng, codec, files)
    for number in range(count):
        use_level(rng.choice(levels()))
        if number % 2:
            outcomes[read_damaged(rng, codec, tiles)] += 1
            continue
        mutant = next(damaged)
        outcomes[judge.decode(mutant)] += 1
        if rng.random() < PREVIEW_SHARE:
            judge.decode_partial(mutant)
            with contextlib.suppress(laws.VaecError):
                codec.decode(mutant.data, scale=1 / rng.choice((2, 4, 8)), max_pixels=targets.MAX_PIXELS)
    return outcomes


def sealed_mutants(rng: random.Random, codec: "Codec", files: "dict[str, Parts]") -> Iterator[Any]:
    """Without end."""
    from fuzz.forge import forge
    from fuzz.mutators import mutants

    originals = tuple(files.values())
    for mutant in mutants(rng, originals, sys.maxsize):
        if mutant.is_sealed:
            yield forge(rng, rng.choice(originals), codec) if rng.random() < FORGED_SHARE else mutant


def read_damaged(rng: random.Random, codec: "Codec", tiles: "list[tuple[Tile, tuple[int, int], int]]") -> str:
    """A damaged payload, perhaps with the size and quality of another tile: what its symbols lead to is computed."""
    from vaecodec.errors import VaecCorruptError
    from vaecodec.model import coding
    from vaecodec.tiling.tile import read_symbols

    tile, size, quality = rng.choice(tiles)
    payload = bytearray(tile.payload)
    for _ in range(rng.randint(0, 3)):
        payload[rng.randrange(len(payload))] = rng.randrange(256)
    if rng.random() < 0.3:
        payload = payload[: 4 * rng.randrange(len(payload) // 4 + 1)] or payload
    if rng.random() < 0.2:
        size = rng.randint(1, 20), rng.randint(1, 20)
    if rng.random() < 0.2:
        quality = rng.randint(1, 100)
    base_only = rng.random() < 0.3
    changed = tile._replace(payload=bytes(payload))
    (found,) = read_symbols(codec.engine, [changed], size, [quality], base_only=base_only)
    if isinstance(found, VaecCorruptError):
        return found.code
    latents = coding.dequantize(codec.engine, [found], *size, [quality])
    if base_only:
        codec.engine.preview(latents[0], 8)
    else:
        codec.engine.synthesize(latents, [quality], [rng.randint(0, 64)])
    return "symbols"


def check(options: argparse.Namespace) -> None:
    """Everything, and a record of it."""
    from fuzz import seeds

    codec = codec_of(options.core)
    check_the_sanitizer()
    vectors = check_vectors(codec)
    print(f"{vectors} conformance vectors: no complaint", flush=True)
    files = seeds.seeds(codec)
    corpus = check_corpus(codec, files)
    print(f"{corpus} files of the corpus: no complaint", flush=True)
    start_s, start_cpu_s = time.monotonic(), time.process_time()
    outcomes = check_mutants(codec, files, options.mutants, options.seed)
    seconds, cpu_s = time.monotonic() - start_s, time.process_time() - start_cpu_s
    record = {
        "date": date.today().isoformat(), "platform": platform.platform(), "cores": os.cpu_count(),
        "vectors": vectors, "corpus": corpus, "mutants": options.mutants, "seed": options.seed,
        "seconds": round(seconds, 1), "mutants_a_second": round(options.mutants / seconds, 1),
        "mutants_a_cpu_second": round(options.mutants / cpu_s, 1), "outcomes": dict(outcomes.most_common()),
    }  # fmt: skip
    rates = f"{record['mutants_a_second']} a second, {record['mutants_a_cpu_second']} a second of CPU time"
    print(f"{options.mutants} mutants, {rates}: no complaint; {record['outcomes']}")
    options.out.write_text(json.dumps(record, indent=1) + "\n")


# --- races ------------------------------------------------------------------------------------------------------------


# Two threads write the same symbols.
RACE = """
import ctypes, sys, threading
rdoq, n = ctypes.CDLL(sys.argv[1]).vaec_rdoq, 1 << 22
residual, indexes, out = ctypes.create_string_buffer(4 * n), ctypes.create_string_buffer(n), (ctypes.c_int16 * n)()
size, radius = ctypes.c_size_t, (ctypes.c_int64 * 2)(1, 1)
work = lambda: rdoq(residual, indexes, size(n), residual, radius, size(2), size(4), size(1), out, size(1))
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def check_races(core: Path) -> None:
    """Threads that encode, decode and look at previews with one engine, and with one of their own."""
    from vaecodec.model import weights
    from vaecodec.model.native_engine import NativeEngine

    if subprocess.run([sys.executable, "-c", RACE, str(core)], stderr=subprocess.DEVNULL, check=False).returncode == 0:
        raise RuntimeError("the sanitizer is blind: it has let two threads write to one place")
    codec = codec_of(core)
    stored = weights.load()
    pixels = np.random.default_rng(0).integers(100, 140, (80, 144, 3)).astype(np.uint8)

    def work(engine: NativeEngine, number: int) -> str:
        from vaecodec.model import coding
        from vaecodec.tiling.tile import decode_latents, encode_latents

        if number % 5 == 4:
            engine.use_one_thread()
        quality = 1 + 33 * (number % 4)
        y = engine.analyze(pixels, quality)
        tile, y_hat = encode_latents(engine, y, quality)
        again = decode_latents(engine, tile, (5, 9), quality)
        shown, _ = engine.synthesize(again[None], [quality], [3])
        like, cut, _ = engine.synthesize_like(y_hat, quality, pixels, (slice(0, 80), slice(0, 144)))
        small = [engine.preview(y_hat, scale) for scale in (2, 4, 8)]
        (base,) = (coding.dequantize(engine, [each], 5, 9, [quality]) for each in _bases(engine, tile, quality))
        parts = [again, shown, like, base, *small]
        return hashlib.sha256(b"".join(part.tobytes() for part in parts) + tile.payload + bytes([cut])).hexdigest()

    for round_number in range(3):
        # New engines, so that what the first caller makes is made while others ask for it.
        shared, own = NativeEngine(stored, threads=3), NativeEngine(stored, threads=2)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(work, [shared, shared, own, shared] * 4, [n // 4 for n in range(16)]))
        assert all(len(set(found[n : n + 4])) == 1 for n in range(0, 16, 4)), found
        print(f"round {round_number}: no race", flush=True)
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda n: codec.decode(codec.encode(pixels, 50)).tobytes(), range(8)))
    assert len(set(pictures)) == 1
    print("one codec for four threads: no race")


def _bases(engine: Any, tile: "Tile", quality: int) -> Any:
    from vaecodec.tiling.tile import read_symbols

    return read_symbols(engine, [tile], (5, 9), [quality], base_only=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=MUTANTS, metavar="N", help="200000 take an hour")
    parser.add_argument("--seed", type=int, default=0, help="another number gives other mutants")
    parser.add_argument("--out", type=Path, default=RECORD, help="the JSON record")
    parser.add_argument("--races", action="store_true", help="look for races instead")
    parser.add_argument("--core", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.core is None:
        return start(options)
    check_races(options.core) if options.races else check(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
