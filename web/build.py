"""Builds the npm package: the core by zig, the weights of a decoder, the scripts by esbuild; `make web`.

Needs the package ziglang in the Python that runs it, and web/node_modules (`npm ci`). Makes web/dist and nothing else
that stays.
"""

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

WEB = Path(__file__).parent
ROOT = WEB.parent
CORE = ROOT / "vaecodec" / "model" / "native_engine" / "core"
DIST, MADE = WEB / "dist", WEB / "build"

# Threads, encoders and exceptions are left out; of `fma`, see simd.h.
FLAGS = (
    "-target", "wasm32-wasi", "-std=c++17", "-O3", "-ffp-contract=off", "-msimd128", "-mbulk-memory",
    "-fignore-exceptions", "-fvisibility=hidden", "-g0", "-DVAEC_LEVEL=wasm", "-Wall", "-Wextra", "-Wno-psabi",
    "-mexec-model=reactor", "-Wl,--gc-sections", "-Wl,--strip-all", "-Wl,-z,stack-size=1048576",
    "-Wl,--max-memory=2147483648",
)  # fmt: skip
EXPORTS = (
    "malloc", "free", "vaec_message", "vaec_tables_new", "vaec_reader_start", "vaec_reader_read", "vaec_model_new",
    "vaec_self_test", "vaec_table_rows", "vaec_start_prediction", "vaec_refine", "vaec_complete", "vaec_synthesize",
    "vaec_preview",
)  # fmt: skip

# The first one is that of most files, and is loaded for them alone.
WEIGHTS = {"vaec-1-eye": "vaecodec.weights", "vaec-1-psnr": "vaecodec-psnr.weights"}
OF_ENCODERS = ("analysis.", "hyper_analysis.")

# Scripts that stand alone, and what they load when they need it.
LOADED_LATER = ("./webp.js", "./zlib.js")
SCRIPTS = {
    "vaecodec": ("./decoder.js",),
    "worker": LOADED_LATER,
    "decoder": LOADED_LATER,
    "element": ("./vaecodec.js",),
    "webp": (),
    "zlib": (),
}
PACKAGES = ("@jsquash/webp", "pako")


def build_module() -> None:
    """Compile the core."""
    sources = [*map(str, sorted(CORE.glob("*.cpp"))), str(WEB / "src" / "runtime.cpp")]
    exports = [f"-Wl,--export={name}" for name in EXPORTS]
    zig = [sys.executable, "-m", "ziglang", "c++"]
    _run([*zig, *FLAGS, *exports, *sources, "-o", str(DIST / "vaecodec.wasm")])


def build_weights() -> None:
    """Write what decoders need of the weights, and tell the scripts which file is which model's."""
    models = {}
    for name, target in WEIGHTS.items():
        data = (ROOT / "pretrained" / f"{name}.safetensors").read_bytes()
        models[hashlib.sha256(data).hexdigest()[:8]] = target
        (DIST / target).write_bytes(gzip.compress(decoder_weights(data), 9, mtime=0))
    (MADE / "models.json").write_text(json.dumps(models))


def decoder_weights(data: bytes) -> bytes:
    """A weights file as web/src/engine.js reads it."""
    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:start])
    metadata, tensors, content = header.pop("__metadata__"), {}, bytearray()
    for name in sorted(name for name in header if not name.startswith(OF_ENCODERS)):
        tensor = header[name]
        first, last = (start + offset for offset in tensor["data_offsets"])
        size = int(tensor["dtype"][1:]) // 8
        sorted_bytes = b"".join(data[first + byte : last : size] for byte in range(size))
        tensors[name] = tensor | {"data_offsets": [len(content), len(content) + len(sorted_bytes)]}
        content += sorted_bytes
    text = json.dumps({"__metadata__": metadata, **tensors}, separators=(",", ":")).encode()
    whole = len(text).to_bytes(8, "little") + text + content
    return whole + zlib.crc32(whole).to_bytes(4, "little")


def build_scripts() -> None:
    """Put each script and what it imports into one file."""
    for name, others in SCRIPTS.items():
        apart = [f"--external:{other}" for other in ("node:*", *others)]
        _run(
            [
                str(WEB / "node_modules" / ".bin" / "esbuild"), str(WEB / "src" / f"{name}.js"), "--bundle",
                "--format=esm", "--target=es2022", "--minify", "--legal-comments=none", *apart,
                f"--outfile={DIST / name}.js", "--log-level=warning",
            ]
        )  # fmt: skip
    shutil.copy(WEB / "node_modules/@jsquash/webp/codec/dec/webp_dec.wasm", DIST / "webp.wasm")
    licences = ["Of the packages that webp.js, webp.wasm and zlib.js are made of."]
    licences += [f"{name}\n\n{(WEB / 'node_modules' / name / 'LICENSE').read_text()}" for name in PACKAGES]
    (DIST / "LICENSES.txt").write_text("\n\n".join(licences))


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    steps = {"module": build_module, "weights": build_weights, "scripts": build_scripts}
    for folder in (DIST, MADE):
        folder.mkdir(exist_ok=True)
    for name in sys.argv[1:] or steps:
        steps[name]()
    shutil.copy(ROOT / "LICENSE", WEB / "LICENSE")


if __name__ == "__main__":
    main()
