"""Laws of vaecodec.pixels: which samples a picture gives, which metadata travels, and what is refused and how."""

import io
import math
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from vaecodec.errors import VaecImageError
from vaecodec.pictures import metadata as metadata_rules
from vaecodec.pictures import pixels

ORIENTATION, MAKE, STRIP_OFFSETS = ExifTags.Base.Orientation, ExifTags.Base.Make, ExifTags.Base.StripOffsets
CONVERTED = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"} | dict.fromkeys(
    ("P", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"), "RGB"
)
sides_px = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)
laws = settings(deadline=None, max_examples=25)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def noise_image(mode: str, width: int = 5, height: int = 4, seed: int = 0) -> Image.Image:
    row_bytes = (width + 7) // 8 if mode == "1" else width * len(Image.new(mode, (1, 1)).tobytes())
    image = Image.frombytes(mode, (width, height), noise(seed, height * row_bytes).tobytes())
    if mode in ("P", "PA"):
        image.putpalette(noise(seed + 1, 768).tobytes())
    return image


def saved(image: Image.Image, image_format: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return Image.open(file)


def state(image: Image.Image) -> tuple[object, ...]:
    palette = image.getpalette("RGBA") if image.mode == "P" else None
    return image.mode, image.size, dict(image.info), image.tobytes(), palette


def code_of(function: object, *arguments: object, **options: object) -> str:
    with pytest.raises(VaecImageError) as caught:
        function(*arguments, **options)
    return caught.value.code


def exif_bytes(tags: dict[int, object]) -> bytes:
    exif = Image.Exif()
    exif.update(tags)
    return exif.tobytes()


def icc_profile(colour_space: bytes) -> bytes:
    return bytes(16) + colour_space + bytes(108)


# Samples of Pillow images


@laws
@given(mode=st.sampled_from(pixels.MODES), width=sides_px, height=sides_px, seed=seeds)
def test_stored_modes_survive_the_way_to_samples_and_back(mode: str, width: int, height: int, seed: int) -> None:
    """to_image undoes to_samples for every stored mode, and C tells the mode."""
    image = noise_image(mode, width, height, seed)
    samples = pixels.to_samples(pixels.open_source(image))
    assert samples.dtype == np.uint8 and samples.shape == (height, width, len(image.getbands()))
    assert samples.flags.c_contiguous and samples.flags.writeable
    back = pixels.to_image(samples, {})
    assert (back.mode, back.tobytes()) == (mode, image.tobytes())


@pytest.mark.parametrize("mode", CONVERTED)
@settings(deadline=None, max_examples=8)
@given(width=sides_px, height=sides_px, seed=seeds)
def test_other_modes_are_converted_as_pillow_does(mode: str, width: int, height: int, seed: int) -> None:
    """Samples equal Pillow's own conversion to the stored mode."""
    image = noise_image(mode, width, height, seed)
    expected = np.atleast_3d(np.asarray(image.copy().convert(CONVERTED[mode])))
    np.testing.assert_array_equal(pixels.to_samples(image), expected)


@pytest.mark.parametrize("mode", [*CONVERTED, *pixels.MODES])
def test_the_callers_image_stays_as_it_is(mode: str) -> None:
    """Neither samples nor metadata nor flattening change pixels, mode, info or palette."""
    image = noise_image(mode)
    image.info["exif"] = exif_bytes({MAKE: "x"})
    before = state(image)
    pixels.to_samples(image)
    pixels.metadata_of(image)
    pixels.flatten_alpha(image, "white")
    assert state(image) == before


@pytest.mark.parametrize("transparency", [3, bytes(range(100))])
def test_palette_transparency_becomes_alpha_and_leaves_the_palette_alone(transparency: int | bytes) -> None:
    """A transparent palette entry gives alpha; Pillow's habit to write it into the caller's palette is kept away."""
    image = noise_image("P", 30, 30)
    image.info["transparency"] = transparency
    before = state(image)
    samples = pixels.to_samples(image)
    assert state(image) == before
    alphas = np.full(256, 255)
    if isinstance(transparency, bytes):
        alphas[: len(transparency)] = list(transparency)
    else:
        alphas[transparency] = 0
    np.testing.assert_array_equal(samples[:, :, 3], alphas[np.asarray(image)])


def test_a_palette_with_alpha_becomes_rgba() -> None:
    """An RGBA palette gives RGBA samples without any info."""
    image = noise_image("P", 30, 30)
    palette = noise(7, 256, 4)
    image.putpalette(palette.tobytes(), "RGBA")
    np.testing.assert_array_equal(pixels.to_samples(image), palette[np.asarray(image)])


@pytest.mark.parametrize(("mode", "key"), [("1", 0), ("L", 7), ("RGB", (7, 8, 9))])
def test_a_png_colour_key_becomes_alpha(mode: str, key: int | tuple[int, ...]) -> None:
    """Pixels of the colour in tRNS get alpha 0, all others 255, and colours stay."""
    image = noise_image(mode, 9, 9)
    image.putpixel((2, 5), key)
    opened = saved(image, "PNG", transparency=key)
    samples = pixels.to_samples(opened)
    colours = np.atleast_3d(np.asarray(image.convert("L") if mode == "1" else image))
    np.testing.assert_array_equal(samples[:, :, :-1], colours)
    np.testing.assert_array_equal(samples[:, :, -1] == 0, np.all(colours == key, axis=2))


def test_an_animation_gives_its_current_frame() -> None:
    """seek() decides which frame is stored."""
    frames = [Image.new("L", (3, 2), level) for level in (10, 200)]
    animation = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    first = pixels.to_samples(animation)[0, 0, 0]
    animation.seek(1)
    assert (first, pixels.to_samples(animation)[0, 0, 0]) == (10, 200)


def test_the_mode_is_asked_after_loading() -> None:
    """Plugins such as ICNS learn the mode, here a palette, only when they load."""
    opened = saved(Image.new("P", (16, 16), 3), "ICNS")
    samples = pixels.to_samples(opened)
    np.testing.assert_array_equal(samples, np.asarray(opened.convert("RGB")))


def test_a_path_is_opened_without_decoding(tmp_path: Path) -> None:
    """A file that ends before its pixels still tells its size; decoding it fails as Pillow does."""
    path = tmp_path / "a.png"
    noise_image("RGB", 40, 30).save(path)
    path.write_bytes(path.read_bytes()[:200])
    for source in (path, str(path)):
        with pixels.open_source(source) as opened:
            assert pixels.size_of(opened) == (40, 30)
            with pytest.raises(OSError, match="truncated"):
                pixels.to_samples(opened)


def test_unreadable_files_fail_as_pillow_does(tmp_path: Path) -> None:
    """A missing file is FileNotFoundError, an unknown one Pillow's OSError."""
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(FileNotFoundError):
        pixels.open_source(tmp_path / "b.png")
    with pytest.raises(OSError, match="cannot identify"):
        pixels.open_source(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_deep_modes_are_refused_with_a_hint(mode: str) -> None:
    """More than 8 bits a sample is BIT_DEPTH, and the message says how to convert."""
    with pytest.raises(VaecImageError, match="scale to 0..255") as caught:
        pixels.to_samples(Image.new(mode, (2, 2)))
    assert caught.value.code == "BIT_DEPTH"


def test_unknown_modes_are_refused() -> None:
    """A mode that this version does not know is MODE."""
    image = Image.new("L", (1, 1))
    image._mode = "XYZ"
    assert code_of(pixels.to_samples, image) == "MODE"


@pytest.mark.parametrize(("mode", "value"), [("RGB", 5), ("RGB", (1, 2)), ("L", (1, 2, 3)), ("L", b"\0"), ("P", "x")])
def test_malformed_transparency_is_refused(mode: str, value: object) -> None:
    """info["transparency"] of another mode's form is TRANSPARENCY, not a guess."""
    image = Image.new(mode, (1, 1))
    image.info["transparency"] = value
    assert code_of(pixels.to_samples, image) == "TRANSPARENCY"


def test_what_pillow_cannot_convert_is_refused() -> None:
    """A palette index outside the palette is CONVERT."""
    image = Image.new("P", (1, 1))
    image.info["transparency"] = 999
    assert code_of(pixels.to_samples, image) == "CONVERT"


# Samples of arrays and tensors


@laws
@given(channels=st.integers(0, 4), height=sides_px, width=sides_px, seed=seeds)
def test_any_view_of_an_array_gives_its_values(channels: int, height: int, width: int, seed: int) -> None:
    """Negative strides, gaps, transposes and read-only memory do not matter; the result is contiguous and writable."""
    base = noise(seed, 2 * width, height, *([channels] if channels else []))
    base.flags.writeable = False
    view = base[::-2].swapaxes(0, 1)
    opened = pixels.open_source(view)
    samples = pixels.to_samples(opened)
    assert pixels.size_of(opened) == (width, height) and samples.flags.c_contiguous and samples.flags.writeable
    np.testing.assert_array_equal(samples, view.reshape(height, width, max(1, channels)))


def test_array_subclasses_become_plain_arrays() -> None:
    """A masked array gives its data, not another masked array."""
    masked = np.ma.masked_array(noise(0, 2, 2, 3), mask=True)
    opened = pixels.open_source(masked)
    assert type(opened) is np.ndarray and np.array_equal(opened, masked.data)


def test_bool_arrays_become_black_and_white() -> None:
    """False is 0 and True is 255."""
    samples = pixels.to_samples(pixels.open_source(np.array([[True, False, True]])))
    assert samples.tolist() == [[[255], [0], [255]]]


@pytest.mark.parametrize("dtype", ["uint16", "int8", "int64", "float32", "complex64", "object"])
def test_other_dtypes_are_refused_with_a_hint(dtype: str) -> None:
    """Anything but uint8 is DTYPE, and the message says how to convert."""
    with pytest.raises(VaecImageError, match="scale to 0..255") as caught:
        pixels.open_source(np.zeros((2, 2, 3), dtype))
    assert caught.value.code == "DTYPE"


def test_bool_arrays_with_channels_are_refused() -> None:
    """A bool array is a bilevel picture, so channels make no sense: DTYPE."""
    assert code_of(pixels.open_source, np.zeros((2, 2, 3), bool)) == "DTYPE"


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 0), (4, 4, 5), (3, 4, 8), (1, 4, 4, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """Neither [H, W] nor [H, W, 1..4] is SHAPE."""
    assert code_of(pixels.open_source, np.zeros(shape, np.uint8)) == "SHAPE"


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 4, 3), (4, 0, 3)])
def test_pictures_without_pixels_are_refused(shape: tuple[int, ...]) -> None:
    """A side of zero is SIZE, for arrays and for Pillow images."""
    assert code_of(pixels.open_source, np.zeros(shape, np.uint8)) == "SIZE"
    assert code_of(pixels.open_source, Image.new("RGB", (shape[1], shape[0]))) == "SIZE"


class NoTorchTensor:
    dtype = "torch.uint8"
    detach = cpu = numpy = print


@pytest.mark.parametrize("source", [None, 5, [[1, 2]], object(), NoTorchTensor()])
def test_other_types_are_refused(source: object) -> None:
    """What is no picture is TYPE."""
    assert code_of(pixels.open_source, source) == "TYPE"


@laws
@given(channels=st.integers(0, 4), height=sides_px, width=sides_px, seed=seeds)
def test_tensors_are_channel_first(channels: int, height: int, width: int, seed: int) -> None:
    """A tensor [C, H, W] or [H, W], contiguous or not, gives the samples of the array that it was made from."""
    torch = pytest.importorskip("torch")
    array = noise(seed, height, width, *([channels] if channels else []))
    tensor = torch.from_numpy(array)
    samples = pixels.to_samples(pixels.open_source(tensor.permute(2, 0, 1) if channels else tensor))
    assert samples.flags.c_contiguous
    np.testing.assert_array_equal(samples, array.reshape(height, width, -1))


@pytest.mark.parametrize(
    ("shape", "dtype", "code"),
    [
        ((3, 4, 4), "float32", "DTYPE"),
        ((3, 4, 4), "bfloat16", "DTYPE"),
        ((4, 4, 5), "bfloat16", "DTYPE"),
        ((8, 4, 3), "uint8", "SHAPE"),
        ((1, 3, 4, 4), "uint8", "SHAPE"),
        ((3, 0, 4), "uint8", "SIZE"),
    ],
)
def test_other_tensors_are_refused(shape: tuple[int, ...], dtype: str, code: str) -> None:
    """Tensors obey the rules of arrays with the channels in front."""
    torch = pytest.importorskip("torch")
    assert code_of(pixels.open_source, torch.zeros(shape, dtype=getattr(torch, dtype))) == code


def test_other_torch_objects_are_refused() -> None:
    """An object of torch that is no tensor is TYPE."""
    torch = pytest.importorskip("torch")
    assert code_of(pixels.open_source, torch.float32) == "TYPE"


# Metadata


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_travels_byte_for_byte(image_format: str, orientation: int) -> None:
    """EXIF of a file is carried without prefix, getexif() of the decoded image reads it, pixels are not turned."""
    exif = exif_bytes({ORIENTATION: orientation, MAKE: "Camera"})
    opened = saved(Image.new("RGB", (6, 4)), image_format, exif=exif)
    metadata = pixels.metadata_of(opened)
    assert metadata == {"exif": exif.removeprefix(b"Exif\0\0")}
    image = pixels.to_image(pixels.to_samples(opened), metadata)
    assert image.size == (6, 4) and dict(image.getexif()) == {ORIENTATION: orientation, MAKE: "Camera"}
    again = saved(image, image_format, exif=image.info["exif"])
    assert pixels.metadata_of(again) == metadata


def test_exif_without_bytes_comes_from_getexif() -> None:
    """Tags that a caller set on the image, or an Exif object in info, are carried too."""
    edited, given_object = Image.new("L", (1, 1)), Image.new("L", (1, 1))
    edited.getexif()[ORIENTATION] = 6
    given_object.info["exif"] = edited.getexif()
    expected = exif_bytes({ORIENTATION: 6}).removeprefix(b"Exif\0\0")
    assert pixels.metadata_of(edited) == pixels.metadata_of(given_object) == {"exif": expected}


def test_a_turned_tiff_is_stored_upright_without_its_layout() -> None:
    """Pillow turns TIFF pixels on load, so the orientation must not travel, nor tags about strips."""
    exif = Image.Exif()
    nested = {ExifTags.Base.FNumber: 2.0, ExifTags.IFD.Interop: {1: "R98"}}
    exif.load(exif_bytes({ORIENTATION: 6, MAKE: "Camera", ExifTags.IFD.Exif: nested}))
    opened = saved(noise_image("RGB", 6, 4), "TIFF", exif=exif)
    metadata = pixels.metadata_of(opened)
    samples = pixels.to_samples(opened)
    assert samples.shape == (6, 4, 3)
    carried = pixels.to_image(samples, metadata).getexif()
    assert carried[MAKE] == "Camera" and carried.get_ifd(ExifTags.IFD.Exif) == {ExifTags.Base.FNumber: 2.0}
    assert ORIENTATION not in carried and STRIP_OFFSETS not in carried


@pytest.mark.parametrize(
    ("mode", "colour_space", "is_kept"),
    [
        *[
            (mode, b"RGB ", mode in ("RGB", "RGBA", "P", "CMYK"))
            for mode in ("L", "LA", "1", "RGB", "RGBA", "P", "CMYK")
        ],
        *[(mode, b"GRAY", mode in ("L", "LA", "1")) for mode in ("L", "LA", "1", "RGB", "RGBA", "P")],
        ("CMYK", b"CMYK", False),
        ("LAB", b"Lab ", False),
    ],
)
def test_an_icc_profile_must_fit_the_stored_mode(mode: str, colour_space: bytes, is_kept: bool) -> None:
    """Colour profiles go with RGB(A), grey ones with L(A); others would falsify the converted pixels."""
    image = Image.new(mode, (1, 1))
    image.info["icc_profile"] = icc_profile(colour_space)
    assert ("icc_profile" in pixels.metadata_of(image)) == is_kept


@pytest.mark.parametrize(("key", "value"), [("xmp", b"<x/>"), ("xmp", "<x/>"), ("XML:com.adobe.xmp", "<x/>")])
def test_xmp_is_found_under_both_names(key: str, value: str | bytes) -> None:
    """XMP is carried as bytes, whichever plugin left it and in whichever form."""
    image = Image.new("L", (1, 1))
    image.info[key] = value
    metadata = pixels.metadata_of(image)
    assert metadata == {"xmp": b"<x/>"} and pixels.to_image(pixels.to_samples(image), metadata).info == metadata


def test_png_metadata_behind_the_pixels_is_found() -> None:
    """PNG may hold chunks after its pixels, so the image is loaded before info is read."""
    file, chunk = io.BytesIO(), b"iTXtXML:com.adobe.xmp\0\0\0\0\0<x/>"
    Image.new("L", (1, 1)).save(file, "PNG", exif=b"MM")
    file.seek(-12, io.SEEK_END)
    end = file.read()
    file.seek(-12, io.SEEK_END)
    file.write((len(chunk) - 4).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) + end)
    opened = Image.open(file)
    assert "xmp" not in opened.info
    assert pixels.metadata_of(opened) == {"exif": b"MM", "xmp": b"<x/>"}


@pytest.mark.parametrize(
    "info",
    [
        {"exif": 5, "icc_profile": "text", "xmp": 7},
        {"exif": b"Exif\0\0", "icc_profile": b"short", "xmp": b""},
        {"exif": None, "icc_profile": None, "xmp": "\ud800"},
        {"Raw profile type exif": "\n\n\nno hex"},
    ],
)
def test_broken_metadata_is_left_out(info: dict[str, object]) -> None:
    """Metadata that cannot be read neither raises nor travels."""
    image = Image.new("RGB", (1, 1))
    image.info.update(info)
    assert pixels.metadata_of(image) == {}


def test_arrays_have_no_metadata() -> None:
    """An array carries nothing."""
    assert pixels.metadata_of(noise(0, 2, 2, 3)) == {}


carried_metadata = st.dictionaries(st.sampled_from(metadata_rules.METADATA_KEYS), st.binary(min_size=1, max_size=5))
override_metadata = st.dictionaries(st.sampled_from(metadata_rules.METADATA_KEYS), st.none() | st.binary(max_size=5))


@laws
@given(carried=carried_metadata, overrides=override_metadata)
def test_overrides_replace_drop_or_keep(carried: dict[str, bytes], overrides: dict[str, bytes | None]) -> None:
    """A named key wins, an empty one drops, the others stay, and the carried dict is not changed."""
    before = dict(carried)
    expected = {key: value for key, value in {**carried, **overrides}.items() if value}
    assert metadata_rules.merge_metadata(carried, **overrides) == expected
    assert carried == before


def test_overrides_may_be_exif_objects_text_or_prefixed() -> None:
    """Exif objects and prefixed bytes become a bare TIFF structure, text becomes UTF-8."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    expected = {"exif": exif.tobytes().removeprefix(b"Exif\0\0"), "xmp": "é".encode()}
    assert metadata_rules.merge_metadata({}, exif=exif, xmp="é") == expected
    assert metadata_rules.merge_metadata({}, exif=b"Exif\0\0" + exif.tobytes(), xmp="é") == expected


@pytest.mark.parametrize(
    "overrides",
    [{"exif": "text"}, {"exif": {}}, {"icc_profile": Image.Exif()}, {"icc_profile": "text"}, {"xmp": 5}, {"iptc": b""}],
)
def test_overrides_of_other_types_or_names_are_refused(overrides: dict[str, object]) -> None:
    """Wrong types and unknown names are METADATA."""
    assert code_of(metadata_rules.merge_metadata, {}, **overrides) == "METADATA"


@pytest.mark.parametrize("key", ["exif", "xmp"])
def test_overrides_that_cannot_be_written_are_refused(key: str) -> None:
    """An Exif with impossible values and text that is no Unicode are METADATA."""
    exif = Image.Exif()
    exif[ORIENTATION] = object()
    assert code_of(metadata_rules.merge_metadata, {}, **{key: exif if key == "exif" else "\ud800"}) == "METADATA"


# Helpers on samples


@laws
@given(width=sides_px, height=sides_px, channels=st.integers(1, 4), multiple=st.integers(1, 40), seed=seeds)
def test_padding_repeats_the_edge(width: int, height: int, channels: int, multiple: int, seed: int) -> None:
    """Sides become the next multiples, and position (y, x) holds the nearest pixel of the picture."""
    samples = noise(seed, height, width, channels)
    padded = pixels.pad_edge(samples, multiple)
    rows, columns = (math.ceil(side / multiple) * multiple for side in (height, width))
    nearest = samples[np.minimum(np.arange(rows), height - 1)][:, np.minimum(np.arange(columns), width - 1)]
    np.testing.assert_array_equal(padded, nearest)


def test_padding_needs_a_positive_multiple() -> None:
    """Multiples below 1 are refused."""
    with pytest.raises(ValueError, match="multiple is 0"):
        pixels.pad_edge(noise(0, 2, 2, 3), 0)


@laws
@given(width=sides_px, height=sides_px, seed=seeds, chunk_samples=st.integers(1, 9999))
def test_psnr_is_its_definition(width: int, height: int, seed: int, chunk_samples: int) -> None:
    """PSNR equals the textbook formula in float64 for every chunk size, in both orders, and is infinite for equals."""
    a, b = noise(seed, 2, height, width, 3)
    b[0, 0, 0] = a[0, 0, 0] ^ 1
    expected = 20 * math.log10(255) - 10 * math.log10(np.mean((a.astype(float) - b) ** 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "_PSNR_CHUNK_SAMPLES", chunk_samples)
        assert pixels.psnr_db(a, b) == pixels.psnr_db(b, a) == pytest.approx(expected, rel=1e-12)
        assert pixels.psnr_db(a, a.copy()) == math.inf


def test_psnr_needs_little_memory() -> None:
    """Comparing a large picture takes less than its own size in scratch memory."""
    a = np.zeros((1500, 1000, 3), np.uint8)
    tracemalloc.start()
    try:
        assert pixels.psnr_db(a, np.broadcast_to(np.uint8(255), a.shape)) == 0
        assert tracemalloc.get_traced_memory()[1] < a.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shapes", [((2, 2, 3), (2, 3, 3)), ((2, 2, 3), (2, 2, 1)), ((0, 2, 3), (0, 2, 3))])
def test_psnr_needs_equal_shapes(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Different or empty shapes are SHAPE, which is a ValueError."""
    assert code_of(pixels.psnr_db, *(np.zeros(shape, np.uint8) for shape in shapes)) == "SHAPE"
    assert issubclass(VaecImageError, ValueError)


# Flattening


@laws
@given(
    mode=st.sampled_from(["LA", "RGBA", "PA", "La", "RGBa"]),
    width=sides_px,
    height=sides_px,
    seed=seeds,
    background=st.tuples(*[st.integers(0, 255)] * 3) | st.just((9, 9, 9)),
)
def test_flattening_is_the_weighted_mean(
    mode: str, width: int, height: int, seed: int, background: tuple[int, int, int]
) -> None:
    """Every pixel is alpha * colour + (1 - alpha) * background, rounded; grey on grey stays L."""
    image = noise_image(mode, width, height, seed)
    samples = pixels.to_samples(image).astype(float)
    flat = pixels.flatten_alpha(image, background)
    assert flat.mode == ("L" if mode in ("LA", "La") and len(set(background)) == 1 else "RGB")
    alpha = samples[:, :, -1:] / 255
    expected = alpha * samples[:, :, :-1] + (1 - alpha) * background
    assert np.abs(np.asarray(flat.convert("RGB")) - expected).max() <= 0.51


def test_flattening_covers_colour_keys_and_names() -> None:
    """Palette transparency counts, and backgrounds have names."""
    image = Image.new("P", (2, 1))
    image.info["transparency"] = 0
    assert np.asarray(pixels.flatten_alpha(image, "red")).tolist() == [[[255, 0, 0]] * 2]


def test_opaque_pictures_are_not_flattened() -> None:
    """Without transparency the very image comes back."""
    image = noise_image("CMYK")
    assert pixels.flatten_alpha(image, "white") is image


def test_flattening_keeps_what_still_fits() -> None:
    """Info and metadata stay, transparency goes, and a grey profile goes where the result is coloured."""
    image = Image.new("LA", (1, 1))
    image.info.update(dpi=(72, 72), icc_profile=icc_profile(b"GRAY"), transparency=0)
    image.getexif()[ORIENTATION] = 6
    coloured, grey = (pixels.flatten_alpha(image, background) for background in ("red", "white"))
    assert coloured.info.keys() == {"dpi", "exif"} and grey.info.keys() == {"dpi", "exif", "icc_profile"}
    assert coloured.getexif()[ORIENTATION] == 6


@pytest.mark.parametrize(
    "background", ["no such colour", "#ff000080", (1, 2), (0, 0, 256), (0, 0, -1), (0.5, 0, 0), 5, None]
)
def test_backgrounds_must_be_opaque_colours(background: object) -> None:
    """Unknown names, alpha, other lengths, ranges and types are BACKGROUND."""
    assert code_of(pixels.flatten_alpha, Image.new("RGBA", (1, 1)), background) == "BACKGROUND"
