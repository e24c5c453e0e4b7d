"""A weights file is accepted only if every name, shape, dtype, value and bound is as the code says."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture
from safetensors.torch import load, save

from vaecodec import Codec
from vaecodec.errors import VaecModelError
from vaecodec.model import weights
from vaecodec.model.torch_engine import engine


def parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load(data), header["__metadata__"]


def refused(tmp_path: Path, data: bytes) -> str:
    """The code with which a weights file is refused, in 5 s of the thread at most, where half a second is usual."""
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    return refused_file(path)


def refused_file(path: Path) -> str:
    start_s = time.thread_time()
    with pytest.raises(VaecModelError) as caught:
        weights.load(path)
    assert time.thread_time() - start_s < 5
    return caught.value.code


def test_loaded_model_is_named_by_its_hash(tiny_weights: Path) -> None:
    """The id is the first four bytes of the file's SHA-256."""
    assert weights.load(tiny_weights).model_id == hashlib.sha256(tiny_weights.read_bytes()).digest()[:4]


def test_the_same_weights_make_the_same_file(tmp_path: Path, tiny_weights: Path) -> None:
    """However often they are saved: files name their model by its hash."""
    stored = weights.load(tiny_weights)
    assert len({weights.save(tmp_path / "again.safetensors", stored) for _ in range(8)}) == 1


def test_built_in_weights_are_the_pinned_ones() -> None:
    """The file in pretrained/ has the hash compiled into the package, and at most 20 MB."""
    data = weights.built_in_path().read_bytes()
    assert hashlib.sha256(data).hexdigest() == weights.BUILT_IN[weights.DEFAULT_TUNE]
    assert len(data) <= 20_000_000


def test_built_in_weights_that_were_exchanged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_weights: Path
) -> None:
    """Other weights, or a flipped bit, in the place of the built-in ones are refused before they are parsed."""
    data = bytearray(weights.built_in_path().read_bytes())
    data[-1] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(data)
    monkeypatch.setattr(weights, "_parse", None)
    for path in (tiny_weights, tmp_path / "flipped.safetensors"):
        monkeypatch.setattr(weights, "built_in_path", lambda tune, path=path: path)
        with pytest.raises(VaecModelError) as caught:
            weights.load(None)
        assert caught.value.code == "MODEL_HASH"


def test_built_in_weights_where_files_cannot_be_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read."""
    expected = weights.load().model_id

    def refuse(*_: object, **__: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(weights.mmap, "mmap", refuse)
    assert weights.load().model_id == expected


@pytest.mark.parametrize("which", ["tiny", "built in"])
def test_what_was_loaded_is_saved_as_it_was(tmp_path: Path, tiny_weights: Path, which: str) -> None:
    """Every tensor and all metadata; safetensors alone decides the order of the latter."""
    path = tiny_weights if which == "tiny" else weights.built_in_path()
    again = tmp_path / "again.safetensors"
    assert weights.save(again, weights.load(path)) == hashlib.sha256(again.read_bytes()).hexdigest()
    (tensors, metadata), (expected, of_expected) = parts(again), parts(path)
    assert metadata == of_expected
    assert {name: (each.dtype, each.shape) for name, each in tensors.items()} == {
        name: (each.dtype, each.shape) for name, each in expected.items()
    }
    assert all(torch.equal(each, expected[name]) for name, each in tensors.items())


@pytest.mark.parametrize("name", ["missing.safetensors", "."])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    """A missing file or a folder is MODEL_FILE."""
    with pytest.raises(VaecModelError) as caught:
        weights.load(tmp_path / name)
    assert caught.value.code == "MODEL_FILE"


def test_file_too_large_is_not_read(tmp_path: Path) -> None:
    """A 10 GB sparse file is refused by its size."""
    path = tmp_path / "huge.safetensors"
    with open(path, "wb") as file:
        file.truncate(10 << 30)
    assert refused_file(path) == "MODEL_FILE"


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    """A device that never ends and a pipe that nobody writes to are refused: they have no size."""
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        assert refused_file(path) == "MODEL_FILE"


def test_a_file_that_grows_while_it_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No more is read than the largest file may have, whatever its size was when it was looked at."""
    path = tmp_path / "huge.safetensors"
    with open(path, "wb") as file:
        file.truncate(10 << 30)
    monkeypatch.setattr(Path, "stat", lambda _: os.stat_result((0, 0, 0, 0, 0, 0, 100, 0, 0, 0)))
    assert refused_file(path) == "MODEL_SCHEMA"


def test_the_shipped_weights_cut_wrong_or_full_of_nan(tmp_path: Path) -> None:
    """At the size of the real file, too, each of these is refused, and soon."""
    data = weights.built_in_path().read_bytes()
    tensors, metadata = parts(weights.built_in_path())
    for length in (9, 1000, len(data) // 2, len(data) - 1):
        assert refused(tmp_path, data[:length]) == "MODEL_SCHEMA"
    assert refused(tmp_path, data + b"\0") == "MODEL_SCHEMA"
    nan = {name: tensor * float("nan") if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    assert refused(tmp_path, save(nan, metadata)) == "MODEL_VALUES"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "MODEL_FILE"),
        (b"\x80\x04\x95" + b"pickled" * 20, "MODEL_SCHEMA"),
        ((1 << 40).to_bytes(8, "little") + b"{}" * 50, "MODEL_SCHEMA"),
        ((2).to_bytes(8, "little") + b"{}", "MODEL_SCHEMA"),
    ],
    ids=["empty", "pickle", "huge header", "no metadata"],
)
def test_not_a_weights_file(tmp_path: Path, data: bytes, code: str) -> None:
    """Pickles, garbage and headers that lie are refused; nothing is executed."""
    assert refused(tmp_path, data) == code


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "overlapping": lambda tensor: tensor["data_offsets"].__setitem__(0, tensor["data_offsets"][0] - 2),
    "shorter": lambda tensor: tensor["data_offsets"].__setitem__(1, tensor["data_offsets"][1] - 2),
    "beyond the end": lambda tensor: tensor.update(data_offsets=[2**40, 2**40 + 8]),
    "negative": lambda tensor: tensor.update(data_offsets=[-8, -4]),
    "three offsets": lambda tensor: tensor["data_offsets"].append(1),
    "offsets of another kind": lambda tensor: tensor.update(data_offsets={"0": 1}),
    "a side to be inferred": lambda tensor: tensor.update(shape=[-1, *tensor["shape"][1:]]),
    "negative sides": lambda tensor: tensor.update(shape=[-side for side in tensor["shape"]]),
    "another number of values": lambda tensor: tensor.update(shape=[*tensor["shape"], 2]),
    "unknown dtype": lambda tensor: tensor.update(dtype="BF8"),
    "no dtype": lambda tensor: tensor.pop("dtype"),
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_about_a_tensor(tmp_path: Path, tiny_weights: Path, lie: str) -> None:
    """Every value belongs to one tensor, of the size that its shape and dtype say."""
    data = tiny_weights.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    LIES[lie](header["synthesis.body_in.weight"])
    text = json.dumps(header).encode()
    assert refused(tmp_path, len(text).to_bytes(8, "little") + text + data[end:]) == "MODEL_SCHEMA"


def test_schema_violations(tmp_path: Path, tiny_weights: Path) -> None:
    """A missing or extra tensor, another shape or dtype, another format or architecture: MODEL_SCHEMA."""
    tensors, metadata = parts(tiny_weights)
    name = "synthesis.body_in.weight"
    without = {key: tensor for key, tensor in tensors.items() if key != name}
    arch = json.loads(metadata["architecture"])
    bad_files = [
        save(without, metadata),
        save({**tensors, "more": torch.zeros(1)}, metadata),
        save({**tensors, name: tensors[name][:-1].clone()}, metadata),
        save({**tensors, name: tensors[name].double()}, metadata),
        save({**tensors, "scales.0.weight": tensors["scales.0.weight"].int()}, metadata),
        save(tensors, {**metadata, "format": "other"}),
        save(tensors, {"format": metadata["format"]}),
        *(save(tensors, {**metadata, "architecture": json.dumps({**arch, **change})})
          for change in ({"latent_channels": 10**9}, {"latent_channels": 1.5}, {"scale_channels": 7}, {"depth": 3},
                         {"analysis_blocks": 1024})),
        save({**tensors, "hyper_tables.counts": tensors["hyper_tables.counts"][:, :-1].clone()}, metadata),
        save({**tensors, "hyper_tables.first_coded_row": torch.ones(1, dtype=torch.int32)}, metadata),
        save({**tensors, "hyper_indexes": torch.full_like(tensors["hyper_indexes"], 255)}, metadata),
    ]  # fmt: skip
    for data in bad_files:
        assert refused(tmp_path, data) == "MODEL_SCHEMA"


def test_values_out_of_range(tmp_path: Path, tiny_weights: Path) -> None:
    """NaN in a float, a scale network that could leave exact arithmetic, tables that do not sum up."""
    tensors, metadata = parts(tiny_weights)
    name = "synthesis.body_in.weight"
    nan = tensors[name].clone()
    nan[0] = float("nan")
    assert refused(tmp_path, save({**tensors, name: nan}, metadata)) == "MODEL_VALUES"
    bias = tensors["scales.0.bias"] + (1 << 53)
    assert refused(tmp_path, save({**tensors, "scales.0.bias": bias}, metadata)) == "EXACT_BOUND"
    shift = tensors["scales.shift"] * 0
    assert refused(tmp_path, save({**tensors, "scales.shift": shift}, metadata)) == "EXACT_BOUND"
    for part, extreme in (("0.bias", -(1 << 63)), ("dequantize", -(1 << 31)), ("shift", (1 << 31) - 1)):
        changed = {**tensors, f"scales.{part}": torch.full_like(tensors[f"scales.{part}"], extreme)}
        assert refused(tmp_path, save(changed, metadata)) == "EXACT_BOUND"
    counts = tensors["latent_tables.counts"].clone()
    counts[0, 5, 0] += 1
    assert refused(tmp_path, save({**tensors, "latent_tables.counts": counts}, metadata)) == "TABLE"


def test_loading_leaves_torch_alone(tiny_weights: Path) -> None:
    """The caller's random numbers go on as they were, and other defaults do not change dtype and device."""
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            loaded = engine.load(weights.load(tiny_weights), "cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    kinds = {(parameter.dtype, parameter.device.type) for parameter in loaded.vae.parameters()}
    assert kinds == {(torch.float32, "cpu")}


def test_finite_weights_that_lead_to_no_numbers(tmp_path: Path, tiny_weights: Path) -> None:
    """Weights so large that latents become NaN are named as the cause, without a warning of numpy's."""
    tensors, metadata = parts(tiny_weights)
    path = tmp_path / "absurd.safetensors"
    huge = {
        name: torch.full_like(tensor, 3e4) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
    path.write_bytes(save(huge, metadata))
    with pytest.raises(VaecModelError) as caught:
        Codec(path, "cpu").encode(picture(32, 32))
    assert caught.value.code == "MODEL_VALUES"
