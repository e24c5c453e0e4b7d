"""A weights file and back: safetensors, checked against a schema in the code, identified by its SHA-256."""

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as format_safetensors
from torch import Tensor

from vaecodec.entropy.tables import Tables
from vaecodec.errors import VaecModelError
from vaecodec.files import write_whole
from vaecodec.memory import keep_freed_memory
from vaecodec.model.devices import pick_device
from vaecodec.model.exact import ExactScales, IntegerLayer, IntegerScales
from vaecodec.model.network import Network
from vaecodec.model.priors import SCALE_ROWS
from vaecodec.model.transforms import Architecture
from vaecodec.model.vae import QUALITIES, Vae

FORMAT = "vaecodec-weights-1"
DEFAULT_FILE = "vaec-1.safetensors"
DEFAULT_SHA256 = "239a5fd9d87c59628b3684a0b3c6de2db553ddfb0b5d3d2c76478ae2caf08a23"
MODEL_ID_BYTES = 4
MAX_FILE_BYTES = 64 << 20
MAX_HEADER_BYTES = 64 << 10
MAX_WIDTH = 1024
MAX_BLOCKS = 32
SCALE_LAYERS = 4
MAX_BANDS = 100
_TABLE_PARTS = ("radius", "counts", "first_coded_row")


def default_path() -> Path:
    """Where the built-in weights lie: inside an installed package, or beside it in a checkout."""
    inside = Path(__file__).parents[1] / "pretrained" / DEFAULT_FILE
    return inside if inside.exists() else Path(__file__).parents[2] / "pretrained" / DEFAULT_FILE


def save(path: Path, vae: Vae, scales: IntegerScales, *, hyper: tuple[Tables, ...], latent: tuple[Tables, ...]) -> str:
    """Write a weights file atomically; returns its SHA-256 in hex. Float tensors are stored as they are in `vae`."""
    tensors = dict(vae.state_dict())
    for number, layer in enumerate(scales.layers):
        tensors[f"scales.{number}.weight"], tensors[f"scales.{number}.bias"] = layer.weight, layer.bias
    tensors["scales.shift"] = torch.tensor([layer.shift for layer in scales.layers], dtype=torch.int32)
    tensors["scales.dequantize"], tensors["scales.row_offset"] = scales.dequantize, scales.row_offset
    for name, group in (("hyper_tables", hyper), ("latent_tables", latent)):
        tensors[f"{name}.radius"] = torch.stack([torch.tensor(t.radius, dtype=torch.int32) for t in group])
        width = max(t.counts.shape[1] for t in group)
        counts = torch.zeros(len(group), len(group[0].radius), width, dtype=torch.int32)
        for number, tables in enumerate(group):
            counts[number, :, : tables.counts.shape[1]] = torch.tensor(tables.counts, dtype=torch.int32)
        tensors[f"{name}.counts"] = counts
        tensors[f"{name}.first_coded_row"] = torch.tensor([t.first_coded_row for t in group], dtype=torch.int32)
    metadata = {"format": FORMAT, "architecture": json.dumps(asdict(vae.arch), sort_keys=True)}
    data = format_safetensors({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    write_whole(path, data)
    return hashlib.sha256(data).hexdigest()


def load(path: Path | None = None, device: str = "auto") -> Network:
    """Load a weights file, or the built-in one.

    Raises:
        VaecModelError: the device cannot be used (DEVICE) or does not compute integers exactly (SELF_TEST), or the file
            is missing or too large (MODEL_FILE), is not the one that this package was built with (MODEL_HASH), or does
            not follow the schema (MODEL_SCHEMA, MODEL_VALUES, EXACT_BOUND, TABLE).
    """
    data = _read(path or default_path())
    digest = hashlib.sha256(data)
    if path is None and digest.hexdigest() != DEFAULT_SHA256:
        raise VaecModelError(
            f"the built-in weights have SHA-256 {digest.hexdigest()[:8]}..., not {DEFAULT_SHA256[:8]}...: reinstall",
            code="MODEL_HASH",
        )
    arch, tensors = _parse(data)
    where = pick_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    vae = _empty(arch)
    vae.load_state_dict({name: tensors[name].float() for name in vae.state_dict()}, assign=True)
    vae.eval().requires_grad_(False).to(where, memory_format=torch.channels_last)
    stored = IntegerScales(
        tuple(
            IntegerLayer(tensors[f"scales.{n}.weight"], tensors[f"scales.{n}.bias"], int(tensors["scales.shift"][n]))
            for n in range(SCALE_LAYERS)
        ),
        tensors["scales.dequantize"],
        tensors["scales.row_offset"],
    )
    stored.prove_exact()
    scales = ExactScales(stored, where)
    scales.self_test()
    return Network(
        vae, scales, hyper_tables=_tables(tensors, "hyper_tables"), latent_tables=_tables(tensors, "latent_tables"),
        model_id=digest.digest()[:MODEL_ID_BYTES], device=where,
    )  # fmt: skip


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not 8 < size <= MAX_FILE_BYTES:
            raise VaecModelError(f"{path} has {size} bytes, allowed 9..{MAX_FILE_BYTES}", code="MODEL_FILE")
        with open(path, "rb") as file:
            return file.read(MAX_FILE_BYTES)  # a file that grows meanwhile is cut, and then refused
    except VaecModelError:
        raise
    except OSError as error:
        raise VaecModelError(f"cannot read the weights {path}: {error.strerror or error}", code="MODEL_FILE") from error


def _parse(data: bytes) -> tuple[Architecture, dict[str, Tensor]]:
    """Architecture and tensors of a weights file, every name, dtype, shape and range checked."""
    header_bytes = int.from_bytes(data[:8], "little")
    if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise _schema(f"header of {header_bytes} bytes, allowed 2..{MAX_HEADER_BYTES}")
    try:
        metadata = json.loads(data[8 : 8 + header_bytes]).get("__metadata__", {})
        tensors = parse_safetensors(data)
        arch = Architecture(**json.loads(metadata["architecture"]))
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _schema(f"not a weights file of vaecodec ({error})") from error
    if metadata.get("format") != FORMAT:
        raise _schema(f"format {metadata.get('format')!r}, expected {FORMAT!r}")
    _check_architecture(arch)
    _check_tensors(arch, tensors)
    return arch, tensors


def _check_architecture(arch: Architecture) -> None:
    for field in fields(arch):
        value, limit = getattr(arch, field.name), MAX_BLOCKS if field.name.endswith("_blocks") else MAX_WIDTH
        if type(value) is not int or not 2 <= value <= limit:
            raise _schema(f"{field.name} is {value!r}, allowed 2..{limit}")
    if arch.latent_channels % 2 or arch.scale_channels % 2 or arch.hyper_channels > 256:
        raise _schema("latent_channels and scale_channels must be even, hyper_channels at most 256")


def _check_tensors(arch: Architecture, tensors: dict[str, Tensor]) -> None:
    floats, integers = _schema_of(arch)
    expected = {
        **floats,
        **{name: shape for name, (_, shape) in integers.items()},
    }
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())
        raise _schema(f"missing or unknown tensors: {', '.join(odd[:4])}")
    for name, tensor in tensors.items():
        shape = expected[name]
        if len(shape) != tensor.dim() or any(
            want not in (-1, have) for want, have in zip(shape, tensor.shape, strict=True)
        ):
            raise _schema(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}")
        allowed = (torch.float16, torch.float32) if name in floats else (integers[name][0],)
        if tensor.dtype not in allowed:
            raise _schema(f"{name} is {tensor.dtype}, expected {allowed[0]}")
        if name in floats and not torch.isfinite(tensor).all():
            raise VaecModelError(f"{name} holds NaN or infinity", code="MODEL_VALUES")
    bands = {len(tensors[f"hyper_tables.{part}"]) for part in _TABLE_PARTS}
    if len(bands) > 1 or not bands <= set(range(1, MAX_BANDS + 1)):
        raise _schema(f"hyper_tables have {sorted(bands)} bands of quality, must all have the same 1 to {MAX_BANDS}")


def _schema_of(arch: Architecture) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[torch.dtype, tuple[int, ...]]]]:
    """Shapes of the float tensors, and dtypes and shapes of the integer ones; -1 is any length."""
    floats = {name: tuple(tensor.shape) for name, tensor in _empty(arch).state_dict().items()}
    width, latents, hyper = arch.scale_channels, arch.latent_channels, arch.hyper_channels
    shapes = [(width, hyper, 3, 3), (2 * width, width, 1, 1), (width, width // 2, 3, 3), (4 * latents, width, 1, 1)]
    integers = {
        "scales.shift": (torch.int32, (SCALE_LAYERS,)),
        "scales.dequantize": (torch.int32, (len(QUALITIES), hyper)),
        "scales.row_offset": (torch.int32, (len(QUALITIES), latents)),
    }
    for number, shape in enumerate(shapes):
        integers[f"scales.{number}.weight"] = (torch.int16, shape)
        integers[f"scales.{number}.bias"] = (torch.int64, shape[:1])
    for name, groups, rows in (("hyper_tables", -1, hyper), ("latent_tables", 2, SCALE_ROWS)):
        integers[f"{name}.radius"] = (torch.int32, (groups, rows))
        integers[f"{name}.counts"] = (torch.int32, (groups, rows, -1))
        integers[f"{name}.first_coded_row"] = (torch.int32, (groups,))
    return floats, integers


def _empty(arch: Architecture) -> Vae:
    """The network without values: no memory, no draw from the caller's random numbers, no default dtype."""
    with torch.device("meta"):
        return Vae(arch)


def _tables(tensors: dict[str, Tensor], name: str) -> tuple[Tables, ...]:
    groups = zip(*(tensors[f"{name}.{part}"] for part in _TABLE_PARTS), strict=True)
    result = []
    for radius, counts, first_coded_row in groups:
        width = 2 * int(radius.max()) + 2
        result.append(Tables(radius.numpy(), counts[:, :width].numpy(), int(first_coded_row)))
    return tuple(result)


def _schema(message: str) -> VaecModelError:
    return VaecModelError(f"weights: {message}", code="MODEL_SCHEMA")
