"""Loads and saves weights files: safetensors, checked against a schema in the code, identified by SHA-256. No torch."""

import hashlib
import json
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as format_safetensors

from vaecodec.entropy.tables import Tables
from vaecodec.errors import VaecModelError
from vaecodec.model.architecture import BUILT_IN, DEFAULT_TUNE, Architecture, float_shapes, integer_shapes
from vaecodec.model.scales import IntegerLayer, IntegerScales
from vaecodec.runtime import threads
from vaecodec.runtime.files import write_whole

FORMAT = "vaecodec-weights-2"
MODEL_ID_BYTES = 4
MAX_FILE_BYTES = 64 << 20
MAX_HEADER_BYTES = 64 << 10
MAX_WIDTH = 1024
MAX_BLOCKS = 32
SCALE_LAYERS = 4
MAX_ROWS = 256  # indexes are bytes
_TABLE_PARTS = ("radius", "counts", "first_coded_row")

_DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1"}

Arrays = dict[str, NDArray[Any]]
Buffer = bytes | mmap.mmap


@dataclass(frozen=True, eq=False)
class Weights:
    """The checked contents of a weights file.

    Attributes:
        arch: widths and depths.
        floats: parameters of transforms and gains by name, float16 or float32, as `architecture.float_shapes` lists.
        scales: the integer scale network.
        hyper_tables: the tables of the hyper-latents, at most 256.
        hyper_indexes: uint8 [HYPER_CONTEXTS, Z], the table index of each channel in each context.
        latent_tables: one entry per pass.
        eye: the tune that the weights were trained for, from squared error alone (0) to visual quality (1).
        restores: whether the weights were trained to change the picture, for example to remove noise.
        model_id: first 4 bytes of the SHA-256 of the file; empty before it is saved.
    """

    arch: Architecture
    floats: Arrays
    scales: IntegerScales
    hyper_tables: Tables
    hyper_indexes: NDArray[np.uint8]
    latent_tables: tuple[Tables, ...]
    eye: float = 1.0
    restores: bool = False
    model_id: bytes = b""

    def arrays(self) -> Arrays:
        """The floats and the integers of the scale network, by their names in the file."""
        found: Arrays = dict(self.floats)
        for number, layer in enumerate(self.scales.layers):
            found[f"scales.{number}.weight"], found[f"scales.{number}.bias"] = layer.weight, layer.bias
        found["scales.shift"] = np.array([layer.shift for layer in self.scales.layers], np.int32)
        found["scales.dequantize"], found["scales.row_offset"] = self.scales.dequantize, self.scales.row_offset
        return found


def built_in_path(tune: str = DEFAULT_TUNE) -> Path:
    """The path of the built-in weights of a tune, in the installed package or in a checkout."""
    name = f"vaec-1-{tune}.safetensors"
    inside = Path(__file__).parents[1] / "pretrained" / name
    return inside if inside.exists() else Path(__file__).parents[2] / "pretrained" / name


def save(path: Path, weights: Weights) -> str:
    """Write a weights file atomically; returns its SHA-256 in hex. Floats keep their dtype."""
    arrays = weights.arrays()
    arrays["hyper_indexes"] = weights.hyper_indexes
    for name, group in (("hyper_tables", (weights.hyper_tables,)), ("latent_tables", weights.latent_tables)):
        arrays[f"{name}.radius"] = np.stack([tables.radius.astype(np.int32) for tables in group])
        width = max(tables.counts.shape[1] for tables in group)
        counts = np.zeros((len(group), len(group[0].radius), width), np.int32)
        for number, tables in enumerate(group):
            counts[number, :, : tables.counts.shape[1]] = tables.counts
        arrays[f"{name}.counts"] = counts
        arrays[f"{name}.first_coded_row"] = np.array([tables.first_coded_row for tables in group], np.int32)
    metadata = {"format": FORMAT, "architecture": json.dumps(asdict(weights.arch), sort_keys=True)}
    if weights.eye != 1:
        metadata["eye"] = f"{weights.eye:g}"
    if weights.restores:
        metadata["restores"] = "true"
    data = _in_order(
        format_safetensors({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)
    )
    write_whole(path, data)
    return hashlib.sha256(data).hexdigest()


def _in_order(data: bytes) -> bytes:
    """The file with sorted metadata: safetensors writes it in random order, which would change the hash."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[end:]


def load(path: Path | None = None, tune: str = DEFAULT_TUNE) -> Weights:
    """Read a weights file, or the built-in one of a tune.

    Raises:
        VaecModelError: (MODEL_FILE) the file is missing or too large; (MODEL_HASH) the built-in file was changed;
            (MODEL_SCHEMA, MODEL_VALUES, EXACT_BOUND, TABLE) the file does not follow the schema.
    """
    data = _mapped(built_in_path(tune)) if path is None else _read(path)
    with threads.beside(lambda: hashlib.sha256(data)) as digest:  # takes as long as parsing
        try:
            weights = _parsed(data)
        finally:  # a changed file is to be reported as such
            found = digest()
            _check_built_in(found, path, tune)
    return replace(weights, model_id=found.digest()[:MODEL_ID_BYTES])


def read(path: Path | None = None, tune: str = DEFAULT_TUNE) -> bytes:
    """Reads the bytes of a weights file, or of the built-in one of a tune; raises as `load`."""
    data = _read(path or built_in_path(tune))
    _check_built_in(hashlib.sha256(data), path, tune)
    return data


def _check_built_in(digest: "hashlib._Hash", path: Path | None, tune: str) -> None:
    """Checks the SHA-256 of a file, if it is a built-in one."""
    if path is None and digest.hexdigest() != BUILT_IN[tune]:
        found, expected = digest.hexdigest()[:8], BUILT_IN[tune][:8]
        raise VaecModelError(
            f"the built-in weights have SHA-256 {found}..., must have {expected}...: reinstall vaecodec",
            code="MODEL_HASH",
        )


def parse(data: bytes) -> Weights:
    """Parses the bytes of a weights file.

    Raises:
        VaecModelError: (MODEL_SCHEMA, MODEL_VALUES, EXACT_BOUND, TABLE) they do not follow the schema.
    """
    return replace(_parsed(data), model_id=hashlib.sha256(data).digest()[:MODEL_ID_BYTES])


def _parsed(data: Buffer) -> Weights:
    """As `parse`, without the name."""
    arch, eye, restores, arrays = _parse(data)
    layers = (
        IntegerLayer(arrays[f"scales.{n}.weight"], arrays[f"scales.{n}.bias"], int(arrays["scales.shift"][n]))
        for n in range(SCALE_LAYERS)
    )
    scales = IntegerScales(tuple(layers), arrays["scales.dequantize"], arrays["scales.row_offset"])
    scales.prove_exact()
    return Weights(
        arch, {name: arrays[name] for name in float_shapes(arch)}, scales, _tables(arrays, "hyper_tables")[0],
        arrays["hyper_indexes"], _tables(arrays, "latent_tables"), eye, restores,
    )  # fmt: skip


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        size = path.stat().st_size
        if not 8 < size <= MAX_FILE_BYTES:
            raise VaecModelError(f"{path} has {size} bytes, must have 9 to {MAX_FILE_BYTES}", code="MODEL_FILE")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        if isinstance(error, VaecModelError):
            raise
        raise VaecModelError(f"cannot read the weights {path}: {error.strerror or error}", code="MODEL_FILE") from error


def _read(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read(MAX_FILE_BYTES)  # a file that grows meanwhile is truncated, and then refused


def _mapped(path: Path) -> Buffer:
    """As `_read`, if possible without a copy. Only for installed files, which are replaced but never cut."""
    with _opened(path) as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError:  # some file systems cannot
            return file.read(MAX_FILE_BYTES)


def _parse(data: Buffer) -> tuple[Architecture, float, bool, Arrays]:
    """Architecture, `eye`, `restores` and arrays of a weights file, every name, dtype, shape and range checked."""
    header_bytes = int.from_bytes(data[:8], "little")
    if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise _schema(f"header has {header_bytes} bytes, must have 2 to {MAX_HEADER_BYTES}")
    try:
        tensors = json.loads(data[8 : 8 + header_bytes])
        metadata = tensors.pop("__metadata__", {})
        arrays = _views(tensors, memoryview(data)[8 + header_bytes :])
        arch, eye = Architecture(**json.loads(metadata["architecture"])), float(metadata.get("eye", "1"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _schema(f"not a vaecodec weights file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise _schema(f"format is {metadata.get('format')!r}, must be {FORMAT!r}")
    _check_architecture(arch)
    _check_arrays(arch, arrays)
    if not 0 <= eye <= 1:
        raise _schema(f"eye is {eye}, allowed 0..1")
    return arch, eye, metadata.get("restores") == "true", arrays


def _views(tensors: dict[str, Any], values: memoryview) -> Arrays:
    """Arrays of the tensors of a safetensors header. The library of that name copies them, which takes 10 ms longer.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the header does not describe these values.
    """
    arrays, start = Arrays(), 0
    for name, about in sorted(tensors.items(), key=lambda each: each[1]["data_offsets"]):
        array = np.frombuffer(values[slice(*about["data_offsets"])], _DTYPES[about["dtype"]]).reshape(about["shape"])
        if about["data_offsets"] != [start, start + array.nbytes] or [*array.shape] != about["shape"]:
            raise ValueError(f"{name} is {about}, must follow the tensor before it")
        arrays[name], start = array, start + array.nbytes
    if start != len(values):
        raise ValueError(f"{len(values) - start} bytes follow the last tensor")
    return arrays


def _check_architecture(arch: Architecture) -> None:
    for field in fields(arch):
        value, limit = getattr(arch, field.name), MAX_BLOCKS if field.name.endswith("_blocks") else MAX_WIDTH
        if type(value) is not int or not 2 <= value <= limit:
            raise _schema(f"{field.name} is {value!r}, must be 2 to {limit}")
    if arch.latent_channels % 2 or arch.scale_channels % 2 or arch.hyper_channels > 256:
        raise _schema("latent_channels and scale_channels must be even, hyper_channels at most 256")


def _check_arrays(arch: Architecture, arrays: Arrays) -> None:
    floats, integers = float_shapes(arch), integer_shapes(arch)
    expected = {**floats, **{name: shape for name, (_, shape) in integers.items()}}
    if arrays.keys() != expected.keys():
        odd = sorted(arrays.keys() ^ expected.keys())
        raise _schema(f"missing or unknown tensors: {', '.join(odd[:4])}")
    for name, array in arrays.items():
        shape = expected[name]
        if len(shape) != array.ndim or any(
            want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)
        ):
            raise _schema(f"{name} has shape {list(array.shape)}, must be {list(shape)}")
        allowed = ("float16", "float32") if name in floats else (integers[name][0],)
        if array.dtype.name not in allowed:
            raise _schema(f"{name} is {array.dtype}, must be {allowed[0]}")
        if name in floats and not _is_finite(array):
            raise VaecModelError(f"{name} holds NaN or infinity", code="MODEL_VALUES")
    rows, indexed = arrays["hyper_tables.radius"].shape[1], int(arrays["hyper_indexes"].max()) + 1
    if not indexed <= rows <= MAX_ROWS or arrays["hyper_tables.counts"].shape[1] != rows:
        raise _schema(f"hyper_tables have {rows} rows, must have {indexed} to {MAX_ROWS}, with as many counts")
    if arrays["hyper_tables.first_coded_row"].any():
        raise _schema("every row of hyper_tables must be coded: hyper-latents are rounded whatever their tables")


def _is_finite(array: NDArray[Any]) -> bool:
    if array.dtype == np.float16:  # as integers, because numpy is slow at halves: positive ones, then negative ones
        bits = np.ascontiguousarray(array).view(np.int16)
        return bool(bits.max(initial=0) < 0x7C00 and bits.view(np.uint16).max(initial=0) < 0xFC00)
    return bool(np.isfinite(array).all())


def _tables(arrays: Arrays, name: str) -> tuple[Tables, ...]:
    result = []
    for radius, counts, first_coded_row in zip(*(arrays[f"{name}.{part}"] for part in _TABLE_PARTS), strict=True):
        width = 2 * int(radius.max()) + 2
        result.append(Tables(radius, counts[:, :width], int(first_coded_row)))
    return tuple(result)


def _schema(message: str) -> VaecModelError:
    return VaecModelError(f"weights: {message}", code="MODEL_SCHEMA")
