"""Pictures go to .vaec bytes and back: sizes, modes, types, targets, tiles, fallbacks, damage, threads."""

import copy
import gc
import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from whole_pictures import decode_tiles, encode_tiles

import vaecodec
from vaecodec import Codec
from vaecodec.errors import (
    VaecError,
    VaecImageError,
    VaecLimitError,
    VaecMismatchError,
    VaecModelError,
    VaecResourceError,
    VaecTargetError,
)
from vaecodec.format import container, records
from vaecodec.format.records import Header, PixelFormat, Tile, TileMode
from vaecodec.model.torch_engine.network import border_ratio
from vaecodec.pictures import pixels
from vaecodec.tiling.canvas import Canvas, Rect
from vaecodec.tiling.encode import Encoder
from vaecodec.tiling.tile import decode_latents, floor_psnr_db

MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def modes_of(data: bytes) -> list[TileMode]:
    return [tile.mode for tile in container.read(data).tiles]


@pytest.mark.engines("native", "torch")
@settings(max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(sorted(MODES)), st.integers(1, 100), st.integers(0, 9))
def test_any_size_mode_and_quality_comes_back(
    tiny: Codec, height: int, width: int, mode: str, quality: int, seed: int
) -> None:
    """Size and mode return exactly, alpha without loss, colour near enough; the same bytes on repetition."""
    samples = picture(height, width, MODES[mode], seed=seed)
    image = Image.fromarray(samples[..., 0] if mode == "L" else samples, mode)
    data = tiny.encode(image, quality)
    decoded = tiny.decode(data)
    assert (decoded.size, decoded.mode) == (image.size, mode)
    back = np.asarray(decoded).reshape(samples.shape)
    if mode in ("LA", "RGBA"):
        assert np.array_equal(back[..., -1], samples[..., -1])
    assert pixels.psnr_db(back, samples) > floor_psnr_db(quality) - 6
    assert tiny.encode(image, quality) == data


@pytest.mark.parametrize("mode", sorted(MODES))
def test_arrays_and_tensors_are_pictures(tiny: Codec, mode: str) -> None:
    """Pillow image, array and tensor of the same samples give the same file, and decode to their own kind."""
    samples = picture(70, 50, MODES[mode])
    flat = samples[..., 0] if mode == "L" else samples
    data = tiny.encode(Image.fromarray(flat, mode), 60)
    assert tiny.encode(flat, 60) == data
    assert tiny.encode(torch.from_numpy(samples).permute(2, 0, 1), 60) == data
    as_array, as_tensor = tiny.decode(data, output="numpy"), tiny.decode(data, output="torch")
    assert as_array.shape == flat.shape
    assert as_tensor.dtype == torch.uint8
    assert np.array_equal(as_tensor.permute(1, 2, 0).numpy().reshape(flat.shape), as_array)
    assert np.array_equal(np.asarray(tiny.decode(data)), as_array)


@pytest.mark.parametrize("scale", [1, 1 / 2])
@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("size", [(70, 50), (1100, 40)], ids=["a tile", "rows of tiles"])
def test_tensors_stay_on_their_device(
    tiny: Codec, monkeypatch: pytest.MonkeyPatch, mode: str, scale: float, size: tuple[int, int]
) -> None:
    """What is synthesized never becomes an array on its way to a tensor, and the tensor is an ordinary one."""
    data = tiny.encode(picture(*size, MODES[mode]), 60)
    expected = np.atleast_3d(tiny.decode(data, output="numpy", scale=scale))
    modes = {tile.mode for tile in container.read(data).tiles}
    before = torch.Tensor.numpy

    def only_rows_of_tables(self: torch.Tensor) -> np.ndarray:
        assert self.dim() == 1, "a picture became an array"
        return before(self)

    monkeypatch.setattr(torch.Tensor, "numpy", only_rows_of_tables)
    decoded = tiny.decode(data, output="torch", scale=scale)
    assert TileMode.LEARNED in modes
    assert torch.equal(decoded, torch.tensor(expected).permute(2, 0, 1))
    assert decoded.is_contiguous() and not decoded.is_inference()


def test_sources_of_a_file(tiny: Codec, tmp_path: Path) -> None:
    """Bytes, memoryview, path and open file decode alike; a source of another type is refused."""
    data = tiny.encode(picture(20, 20), 50)
    path = tmp_path / "a.vaec"
    path.write_bytes(data)
    expected = tiny.decode(data, output="numpy")
    for source in (bytearray(data), memoryview(data), path, str(path), io.BytesIO(data)):
        assert np.array_equal(tiny.decode(source, output="numpy"), expected)
    with pytest.raises(VaecError):
        tiny.decode(3.5)


def test_metadata_is_carried_replaced_and_dropped(tiny: Codec) -> None:
    """EXIF, ICC and XMP travel by default; an argument replaces one, None drops it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(picture(16, 16))
    image.info["xmp"] = b"<x/>"
    image.info["exif"] = exif.tobytes()
    carried = tiny.decode(tiny.encode(image))
    assert carried.getexif()[0x0112] == 6
    assert carried.info["xmp"] == b"<x/>"
    assert carried.size == image.size, "orientation is told, not applied"
    changed = tiny.decode(tiny.encode(image, xmp=b"<y/>", exif=None))
    assert changed.info["xmp"] == b"<y/>"
    assert "exif" not in changed.info


@pytest.mark.parametrize("limit", [900, 1500, 4000])
def test_target_bytes_is_met_and_not_wasted(tiny: Codec, limit: int) -> None:
    """The file fits, and the file of the next quality would not."""
    image = picture(128, 160, seed=3)
    data = tiny.encode(image, target_bytes=limit)
    assert len(data) <= limit
    quality = vaecodec.info(data).header.quality
    assert quality == 100 or len(tiny.encode(image, quality + 1)) > limit


@pytest.mark.engines("native", "torch")
def test_target_psnr_is_reached_by_the_file(tiny: Codec) -> None:
    """The decoded file has the PSNR asked for."""
    image = picture(128, 128, seed=4)
    data = tiny.encode(image, target_psnr=30.0)
    assert pixels.psnr_db(tiny.decode(data, output="numpy"), image) >= 30.0


def test_target_that_cannot_be_met(tiny: Codec) -> None:
    """A size below that of quality 1 is an error."""
    with pytest.raises(VaecTargetError):
        tiny.encode(picture(64, 64), target_bytes=10)


def test_files_named_by_a_path_are_closed(tiny: Codec, tmp_path: Path) -> None:
    """A picture that is refused, or has more frames, leaves no open file behind (warnings are errors)."""
    path = tmp_path / "a.gif"
    frames = [Image.fromarray(picture(20, 20, seed=n)) for n in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="2 further frames"):
        tiny.encode(path)
    with pytest.raises(VaecLimitError):
        tiny.encode(path, max_pixels=10)
    gc.collect()


def test_max_pixels_holds_before_pixels_are_read(tiny: Codec) -> None:
    """Both directions refuse a picture with more pixels than allowed."""
    image = picture(40, 50)
    with pytest.raises(VaecLimitError):
        tiny.encode(image, max_pixels=1999)
    data = tiny.encode(image, max_pixels=2000)
    with pytest.raises(VaecLimitError):
        tiny.decode(data, max_pixels=1999)


def test_solid_picture_is_a_handful_of_bytes(tiny: Codec) -> None:
    """One colour is stored as that colour, exactly, and needs no weights to decode."""
    image = np.full((300, 200, 3), (12, 250, 99), np.uint8)
    data = tiny.encode(image, 1)
    assert len(data) == 32 + 12 + 3
    assert np.array_equal(Codec("missing.safetensors").decode(data, output="numpy"), image)


def test_noise_and_text_never_exceed_the_lossless_size(tiny: Codec) -> None:
    """Hostile pictures cost at most their raw bytes; synthetic ones that pack well are stored without loss."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    assert len(tiny.encode(noise, 100)) <= noise.size * 1.001 + 120
    text = np.where(np.indices((128, 128)).sum(0)[..., None] // 16 % 2, 255, 0).astype(np.uint8).repeat(3, 2)
    data = tiny.encode(text, 90)
    assert modes_of(data) == [TileMode.WEBP]
    assert np.array_equal(tiny.decode(data, output="numpy"), text)


@pytest.mark.engines("native", "torch")
def test_tile_below_its_floor_is_stored_without_the_network(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the network fails, the tile falls back, and its neighbours are those that the decoder will see."""
    monkeypatch.setattr(Header, "tile_size", property(lambda self: 64))
    image = picture(64, 192, seed=5)
    synthesize = Canvas.synthesize_like

    def broken_in_the_middle(self: Canvas, box: records.TileBox, original: np.ndarray) -> np.ndarray:
        return 255 - synthesize(self, box, original) if box.left == 64 else synthesize(self, box, original)

    with monkeypatch.context() as patch:
        patch.setattr(Canvas, "synthesize_like", broken_in_the_middle)
        header = Header(PixelFormat.RGB, 192, 64, tiny.engine.model_id, 60)
        coded, header, squared_error = encode_tiles(image, header, tiny.engine)
    assert [tile.mode for tile in coded] == [TileMode.LEARNED, TileMode.WEBP, TileMode.LEARNED]
    again, damage = decode_tiles(coded, header, tiny.engine)
    assert not damage
    assert squared_error == pixels.squared_error(image, again)
    assert pixels.psnr_db(image[:, 64:128], again[:, 64:128]) >= floor_psnr_db(60)


@pytest.mark.engines("native", "torch")
@pytest.mark.parametrize("which", ["tiny", "shipped"])
def test_tiles_leave_no_seam(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """Synthesis tile by tile equals synthesis of the whole canvas within one level, everywhere."""
    monkeypatch.setattr(Header, "tile_size", property(lambda self: 128))
    codec: Codec = request.getfixturevalue(which)
    image = picture(300, 270, seed=6)
    header = Header(PixelFormat.RGB, 270, 300, codec.engine.model_id, 70)
    coded, header, squared_error = encode_tiles(image, header, codec.engine)
    assert {tile.mode for tile in coded} == {TileMode.LEARNED}
    tiled, _ = decode_tiles(coded, header, codec.engine)
    assert squared_error == pixels.squared_error(image, tiled)
    canvas = Canvas(header, codec.engine, deblocking_cut=header.deblocking_cut)
    for tile, box in zip(coded, header.boxes(), strict=True):
        canvas.place(box, decode_latents(codec.engine, tile, Rect.of(box).latents.size, 70))
    latents = canvas.latents(canvas.window)[None]
    whole, are_finite = codec.engine.synthesize(latents, [70], [header.deblocking_cut])
    assert are_finite == [True]
    assert np.abs(codec.engine.to_numpy(whole)[0, :300, :270].astype(int) - tiled).max() <= 1


@pytest.fixture
def smoothing(tiny_weights: Path) -> Iterator[Codec]:
    """The tiny codec with a filter that knows no bounds; its network is shared by all codecs of the process."""
    tiny = Codec(tiny_weights, "cpu", engine="torch")
    deblocking = tiny.engine.vae.synthesis.deblocking
    before = copy.deepcopy(deblocking.state_dict())
    with torch.no_grad():
        deblocking.bound.bias.fill_(5)
        deblocking.ramp[0] = 0.45
    yield tiny
    deblocking.load_state_dict(before)


def test_what_deblocking_smooths_too_much_is_left_out(smoothing: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tiles of a file share a cut that brings the grid of the original back."""
    monkeypatch.setattr(Header, "tile_size", property(lambda self: 128))
    codec = smoothing
    image = picture(200, 270, seed=3)
    data = codec.encode(image, 90)
    stream = container.read(data)
    assert {tile.mode for tile in stream.tiles if tile} == {TileMode.LEARNED}
    assert stream.header.deblocking_cut > 0
    wanted, found, without = (
        border_ratio(torch.tensor(samples).permute(2, 0, 1).float(), 16)
        for samples in (
            image, codec.decode(data, output="numpy"),
            codec.decode(container.write(replace(stream.header, deblocking_cut=0), stream.tiles), output="numpy"),
        )
    )  # fmt: skip
    assert without < 0.7 * wanted
    assert abs(found - wanted) < 0.2 * (wanted - without)
    whole = codec.decode_batch([data, codec.encode(image[:64, :64], 90)], output="numpy")[0]
    assert np.array_equal(whole, codec.decode(data, output="numpy"))
    region = codec.decode_region(data, (100, 90, 180, 150), output="numpy")
    assert np.abs(region.astype(int) - whole[90:150, 100:180]).max() <= 1


@pytest.mark.engines("native", "torch")
def test_intact_payload_of_other_latents_is_a_mismatch(tiny: Codec) -> None:
    """A re-sealed payload that decodes to other latents is never shown."""
    stream = container.read(tiny.encode(picture(64, 64, seed=7), 80))
    (tile,) = stream.tiles
    assert tile is not None
    assert tile.mode == TileMode.LEARNED
    wrong_crc = Tile(tile.mode, tile.payload, tile.content_crc ^ 1)
    swapped = Tile(tile.mode, tile.payload[::-1], tile.content_crc)
    for bad in (wrong_crc, swapped):
        with pytest.raises(VaecMismatchError) as caught:
            tiny.decode(container.write(stream.header, [bad]))
        assert caught.value.tile == 0
    plain = Tile(TileMode.SOLID, b"\1\2\3", 0)
    with pytest.raises(VaecMismatchError) as caught:
        tiny.decode(container.write(stream.header, [plain]))
    assert caught.value.code == "SAMPLES_CRC"


@pytest.mark.engines("native", "torch")
def test_partial_decoding_keeps_the_sound_tiles(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """With on_error="partial" a damaged tile is grey, the others are as they were, and a warning names it."""
    monkeypatch.setattr(Header, "tile_size", property(lambda self: 64))
    header = Header(PixelFormat.RGB, 256, 64, tiny.engine.model_id, 70)
    image = picture(64, 256, seed=8)
    coded, header, _ = encode_tiles(image, header, tiny.engine)
    decoded, _ = decode_tiles(coded, header, tiny.engine)
    data = bytearray(container.write(header, coded))
    data[-5] ^= 4
    with pytest.raises(VaecError):
        tiny.decode(bytes(data))
    with pytest.warns(UserWarning, match="tile 3"):
        partial = tiny.decode(bytes(data), output="numpy", on_error="partial")
    assert (partial[:, 192:] == 128).all()
    assert np.array_equal(partial[:, :128], decoded[:, :128]), "beyond the synthesis margin nothing changes"


def test_model_that_the_file_names_is_missing(tiny: Codec, shipped: Codec) -> None:
    """Another model's file says which model it needs."""
    data = tiny.encode(picture(64, 64), 50)
    with pytest.raises(VaecModelError, match=vaecodec.info(data).header.model_id.hex()) as caught:
        shipped.decode(data)
    assert caught.value.code == "MODEL_MISSING"


@pytest.mark.parametrize(("mode", "code"), [("I;16", "BIT_DEPTH"), ("I", "BIT_DEPTH"), ("F", "BIT_DEPTH")])
def test_deep_images_are_refused_with_a_hint(tiny: Codec, mode: str, code: str) -> None:
    """More than eight bits a sample cannot be kept, and is not silently cut."""
    with pytest.raises(VaecImageError) as caught:
        tiny.encode(Image.new(mode, (8, 8)))
    assert caught.value.code == code


@pytest.mark.parametrize("options", [{"output": "jpeg"}, {"on_error": "ignore"}])
def test_unknown_options_of_decode(tiny: Codec, options: dict[str, str]) -> None:
    """A misspelt option is an error, not a default."""
    with pytest.raises(VaecImageError):
        tiny.decode(tiny.encode(picture(8, 8)), **options)


def test_unknown_device() -> None:
    """A device that is not there is a VaecModelError."""
    with pytest.raises(VaecModelError) as caught:
        Codec(None, "cuda:77").encode(picture(32, 32))
    assert caught.value.code == "DEVICE"


def test_memory_that_runs_out(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """MemoryError and torch's own way of saying it are VaecResourceError."""
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Encoder, "run", fail)
        with pytest.raises(VaecResourceError):
            tiny.encode(picture(8, 8))


def test_verify_is_shallow_or_deep(tiny: Codec, tiny_weights: Path) -> None:
    """Shallow verification checks CRCs; deep verification also finds what only decoding can tell."""
    data = tiny.encode(picture(64, 64, seed=9), 80)
    assert vaecodec.verify(data).header.width == 64
    vaecodec.verify(data, deep=True, model=tiny_weights, device="cpu")
    stream = container.read(data)
    (tile,) = stream.tiles
    assert tile is not None
    crafted = container.write(stream.header, [Tile(tile.mode, tile.payload, tile.content_crc ^ 1)])
    vaecodec.verify(crafted)
    with pytest.raises(VaecMismatchError):
        vaecodec.verify(crafted, deep=True, model=tiny_weights, device="cpu")


@pytest.mark.engines("native", "torch")
def test_threads_share_a_codec_and_torch_is_left_alone(tiny: Codec) -> None:
    """Many threads give what one gives; threads, grad mode, default dtype and RNG of torch stay as they were."""
    images = [picture(60 + n, 80, seed=n) for n in range(6)]
    expected = [tiny.encode(image, 70) for image in images]
    state = torch.get_rng_state()
    before = (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())
    results: list[list[bytes]] = [[] for _ in range(4)]

    def work(number: int) -> None:
        for image, data in zip(images, expected, strict=True):
            results[number].append(tiny.encode(image, 70))
            tiny.decode(data)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [expected] * 4
    assert (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.engines("native", "torch")
def test_another_default_dtype_is_harmless(tiny: Codec) -> None:
    """A program that computes in float64 by default gets the same file and picture."""
    image = picture(50, 60)
    data = tiny.encode(image, 50)
    torch.set_default_dtype(torch.float64)
    try:
        assert tiny.encode(image, 50) == data
        assert tiny.decode(data, output="numpy").shape == image.shape
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.engines("native", "torch")
def test_batches_are_their_members(tiny: Codec) -> None:
    """Batch calls give what single calls give, in order."""
    images = [picture(40, 40 + n) for n in range(3)]
    files = tiny.encode_batch(images, 40)
    assert files == [tiny.encode(image, 40) for image in images]
    for decoded, data in zip(tiny.decode_batch(files, output="numpy"), files, strict=True):
        assert np.array_equal(decoded, tiny.decode(data, output="numpy"))


@pytest.mark.engines("native", "torch")
def test_shipped_model_on_a_photograph(shipped: Codec, kodak: list[Path]) -> None:
    """On a photograph: a quarter of JPEG's default bytes or so, more bytes and dB with quality."""
    image = Image.open(kodak[22]).convert("RGB").crop((0, 0, 384, 256))
    sizes, psnrs = [], []
    for quality in (10, 40, 70, 100):
        data = shipped.encode(image, quality)
        sizes.append(len(data))
        psnrs.append(pixels.psnr_db(np.asarray(shipped.decode(data)), np.asarray(image)))
    assert sizes == sorted(sizes)
    assert psnrs == sorted(psnrs)
    assert psnrs[0] > 27
    assert psnrs[-1] > 37
