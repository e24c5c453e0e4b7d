"""The native core under AddressSanitizer and UBSan: conformance vectors, then damaged payloads; `make sanitize`.

Run without arguments it builds such a core and starts itself anew with it; Linux with g++ or clang++ only.
"""

import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
VECTORS = ROOT / "tests" / "conformance" / "vectors"
LEARNED_SIDE = 16  # pixels a latent
SECONDS = 60.0


def start() -> None:
    """Build the core, and run `check` in a process that loads the sanitizer first, as it must."""
    sys.path.insert(0, str(ROOT))
    import build_core

    command = build_core.compiler() or ["c++"]
    with tempfile.TemporaryDirectory() as folder:
        core = Path(folder, build_core.library_name())
        build_core.build(command, core, flags=build_core.SANITIZED)
        names = ("libasan.so", "libubsan.so")
        found = [subprocess.check_output([*command, f"-print-file-name={name}"], text=True).strip() for name in names]
        settings = {
            "LD_PRELOAD": ":".join(found), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(ROOT),
            "PYTHONMALLOC": "malloc",
        }  # fmt: skip
        sys.exit(subprocess.call([sys.executable, __file__, str(core)], env=os.environ | settings))


def check(core: Path) -> None:
    """Every learned tile of the vectors on every instruction set, then damaged ones for a minute."""
    import time

    from vaecodec.bitstream import TileMode

    from vaecodec import bitstream
    from vaecodec.errors import VaecCorruptError, VaecError
    from vaecodec.model import native_engine
    from vaecodec.model.native_engine import library

    sys.modules[library.__module__].library_path = lambda: core
    engine = native_engine.NativeEngine(threads=2)
    tiles = []
    for path in sorted(VECTORS.glob("*.vaec")):
        try:
            contents = bitstream.read(path.read_bytes())
        except VaecError:
            continue
        header = contents.header
        for box, tile in zip(header.boxes(), contents.tiles, strict=True):
            if tile is not None and tile.mode == TileMode.LEARNED:
                size = -(-box.height // LEARNED_SIDE), -(-box.width // LEARNED_SIDE)
                tiles.append((path.stem, tile, size, header.quality))
    good = []
    for level in native_engine.levels():
        native_engine.use_level(level)
        for name, tile, size, quality in tiles:
            try:
                symbols = engine.read_symbols(tile.payload, *size, quality)
            except VaecCorruptError:
                continue
            crc = zlib.crc32(symbols.y.tobytes(), zlib.crc32(symbols.z.tobytes()))
            latents = engine.dequantize([symbols], *size, [quality])
            engine.synthesize(latents, [quality], [3])
            for scale in (2, 4, 8):
                engine.preview(latents[0], scale)
            assert engine.write_symbols(symbols, *size, quality) == tile.payload, name
            if crc == tile.content_crc and size[0] * size[1] < 300:
                good.append((tile, size, quality))
        pixels = np.random.default_rng(0).integers(0, 256, (48, 208, 3)).astype(np.uint8)
        symbols, y_hat = engine.choose(*engine.hyper_analyze(engine.analyze(pixels, 30), 30), 30)
        engine.synthesize_like(y_hat, 30, pixels[:40, 16:], (slice(0, 40), slice(16, 208)))
    print(f"{len(tiles)} learned tiles of the vectors on {', '.join(native_engine.levels())}: no complaint", flush=True)

    rng, end, tried, refused = np.random.default_rng(0), time.monotonic() + SECONDS, 0, 0
    while time.monotonic() < end:
        tile, size, quality = good[rng.integers(len(good))]
        damaged = bytearray(tile.payload)
        for _ in range(rng.integers(1, 4)):
            if damaged:
                damaged[rng.integers(len(damaged))] = rng.integers(256)
        if rng.random() < 0.3:
            damaged = damaged[: 4 * rng.integers(0, len(damaged) // 4 + 1)]
        if rng.random() < 0.2:
            size = int(rng.integers(1, 20)), int(rng.integers(1, 20))
        tried += 1
        try:
            symbols = engine.read_symbols(
                bytes(damaged), *size, int(rng.integers(1, 101)), base_only=bool(rng.random() < 0.3)
            )
            engine.dequantize([symbols], *size, [quality])
        except VaecCorruptError:
            refused += 1
    print(f"{tried} damaged payloads, {refused} refused: no complaint")


if __name__ == "__main__":
    check(Path(sys.argv[1])) if len(sys.argv) > 1 else start()
