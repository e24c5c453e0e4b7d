"""Training data: tensors from folders, in workers forked and spawned, through webdataset, datasets and imageio."""

import io
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset

import vaecodec
from vaecodec import Codec, VaecChecksumError, VaecError, VaecImageError, VaecModelError
from vaecodec.data import Decoder, RandomSquare, VaecDataset

RECIPES = Path(__file__).parents[1] / "docs" / "data.md"

# webdataset leaves closing its shards to the garbage collector.
leaves_files_open = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore:.*shard.*:pytest.PytestUnraisableExceptionWarning"
)
SIZE = (40, 56)
NAMES = ("b/2.vaec", "a.vaec", "b/1.VAEC", "c.vaec", "d.vaec")


@pytest.fixture(scope="module")
def decoder(tiny_weights: Path) -> Decoder:
    """A decoder with the tiny weights."""
    return Decoder(model=tiny_weights)


@pytest.fixture(scope="module")
def folder(tiny: Codec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures of one size in a tree, and files that are none of them."""
    folder = tmp_path_factory.mktemp("data")
    for number, name in enumerate((*NAMES, ".hidden.vaec", ".cache/e.vaec", "a.png")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(tiny.encode(picture(*SIZE, seed=number), 60))
    return folder


def expected(folder: Path, decoder: Decoder) -> torch.Tensor:
    """What every way of loading `folder` must give, in order of the paths: uint8 [5, 3, H, W]."""
    codec = Codec(decoder.model, "cpu")
    arrays = [codec.decode(folder / name, output="numpy") for name in sorted(NAMES)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def damaged(path: Path) -> bytes:
    """The bytes of a file with one of its payload's bits turned."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    return bytes(data)


class Crop:
    """A transform that can be pickled."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """The left upper corner."""
        return image[:, :8, :16]


def name_of(path: str) -> str:
    """A label that can be pickled."""
    return os.path.basename(path)


# --- decoder ----------------------------------------------------------------------------------------------------------


@pytest.mark.engines("native", "torch")
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_mode_becomes_three_channels_or_stays_as_stored(tiny: Codec, decoder: Decoder, channels: int) -> None:
    """Grey is repeated, alpha dropped, colour left alone; "stored" is exactly what `Codec.decode` gives."""
    data = tiny.encode(picture(24, 40, channels), 60)
    stored = np.atleast_3d(tiny.decode(data, output="numpy"))
    as_stored = Decoder(mode="stored", model=decoder.model)([data])[0]
    assert as_stored.dtype == torch.uint8 and np.array_equal(as_stored.permute(1, 2, 0), stored)
    rgb = decoder([data])[0]
    assert rgb.shape == (3, 24, 40) and rgb.is_contiguous()
    colour = stored[..., :3] if channels > 2 else stored[..., :1].repeat(3, axis=2)
    assert np.array_equal(rgb.permute(1, 2, 0), colour)


@pytest.mark.engines("native", "torch")
def test_a_batch_may_have_any_sizes_and_sources(tiny: Codec, decoder: Decoder, tmp_path: Path) -> None:
    """Bytes, paths and files of different sizes come back in order."""
    files = [tiny.encode(picture(side, 24), 50) for side in (16, 40, 17)]
    (tmp_path / "a.vaec").write_bytes(files[1])
    tensors = decoder([files[0], tmp_path / "a.vaec", io.BytesIO(files[2])])
    assert [tuple(tensor.shape) for tensor in tensors] == [(3, 16, 24), (3, 40, 24), (3, 17, 24)]


@pytest.mark.engines("native", "torch")
def test_the_damaged_file_of_a_batch_is_named(folder: Path, decoder: Decoder, tmp_path: Path) -> None:
    """Class and code are those of the one file, and the message begins with its path, or its number."""
    good, bad = folder / "a.vaec", tmp_path / "bad.vaec"
    bad.write_bytes(damaged(good))
    for files, name in (([good, bad], str(bad)), ([good.read_bytes(), bad.read_bytes()], "file 1 of the batch")):
        with pytest.raises(VaecChecksumError, match=rf"^{re.escape(name)}: ") as caught:
            decoder(files)
        assert caught.value.code == "TILE_CRC" and caught.value.tile == 0


def test_an_unknown_mode_is_refused() -> None:
    """The message names the allowed ones."""
    with pytest.raises(VaecImageError, match="mode is 'BGR', must be one of RGB, stored") as caught:
        Decoder(mode="BGR")  # type: ignore[arg-type]
    assert caught.value.code == "ARGUMENT"


def test_a_region_is_cut_while_decoding(folder: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It equals the cut of the whole picture, which is never decoded; a function is asked for each picture."""
    whole, asked = expected(folder, decoder), []
    monkeypatch.setattr(Codec, "decode", lambda *_, **__: pytest.fail("all of it was decoded"))
    monkeypatch.setattr(Codec, "decode_batch", lambda *_, **__: pytest.fail("all of it was decoded"))

    def box(width: int, height: int) -> tuple[int, int, int, int]:
        asked.append((width, height))
        return 5, 3, 25, 13

    for region in ((5, 3, 25, 13), box):
        dataset = VaecDataset(folder, decoder=replace(decoder, region=region))
        found = torch.stack(dataset.__getitems__(range(5)))
        assert (found.int() - whole[:, :, 3:13, 5:25].int()).abs().max() <= 1
    assert asked == [SIZE[::-1]] * 5
    with pytest.raises(VaecError, match=r"a\.vaec: box is"):
        replace(decoder, region=(0, 0, 999, 1))([folder / "a.vaec"])


def test_random_squares_lie_in_the_picture() -> None:
    """Anywhere; of one that is too small, all there is. They survive pickling, for workers that are spawned."""
    square = pickle.loads(pickle.dumps(RandomSquare(16)))
    boxes = {square(20, 40) for _ in range(100)}
    assert len(boxes) > 20
    assert all(left >= 0 and right - left == 16 and right <= 20 for left, _, right, _ in boxes)
    assert all(top >= 0 and bottom - top == 16 and bottom <= 40 for _, top, _, bottom in boxes)
    assert square(10, 16) == (0, 0, 10, 16)


def test_pictures_are_scaled_while_decoding(folder: Path, decoder: Decoder) -> None:
    """As `Codec.decode` does it; not together with a region."""
    codec = Codec(decoder.model, "cpu")
    (found,) = replace(decoder, scale=1 / 4)([folder / "a.vaec"])
    assert torch.equal(found, codec.decode(folder / "a.vaec", output="torch", scale=1 / 4))
    with pytest.raises(VaecImageError, match="cannot be combined"):
        replace(decoder, scale=1 / 2, region=(0, 0, 8, 8))


def test_no_file_is_blamed_for_the_device(folder: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of CUDA names what is wrong, and not the first file of the batch."""

    def fail(*_: object, **__: object) -> None:
        raise VaecModelError("no such device", code="DEVICE")

    for name in ("decode_batch", "decode_region"):
        monkeypatch.setattr(Codec, name, fail)
    for region in (None, (0, 0, 8, 8)):
        with pytest.raises(VaecModelError, match="^no such device$"):
            replace(decoder, region=region)([folder / "a.vaec"])


def test_the_limit_on_pixels_holds(folder: Path, decoder: Decoder) -> None:
    """A picture above `max_pixels` is refused."""
    with pytest.raises(vaecodec.VaecLimitError, match=r"a\.vaec"):
        Decoder(model=decoder.model, max_pixels=100)([folder / "a.vaec"])


# --- dataset ----------------------------------------------------------------------------------------------------------


@pytest.mark.engines("native", "torch")
def test_a_folder_is_taken_whole_and_in_order(folder: Path, decoder: Decoder) -> None:
    """Every .vaec file at any depth, sorted by path, hidden ones left out; each as `Codec.decode` gives it."""
    dataset = VaecDataset(folder, decoder=decoder)
    assert list(dataset.paths) == [str(folder / name) for name in sorted(NAMES)]
    assert torch.equal(torch.stack([dataset[n] for n in range(len(dataset))]), expected(folder, decoder))
    assert torch.equal(dataset[-1], dataset[len(NAMES) - 1])


def test_a_list_keeps_its_order(folder: Path, decoder: Decoder) -> None:
    """Paths may come from anywhere, in any order, more than once."""
    paths = [folder / "d.vaec", str(folder / "a.vaec"), folder / "d.vaec"]
    assert list(VaecDataset(iter(paths), decoder=decoder).paths) == [str(path) for path in paths]


def test_transform_and_label_make_the_item(folder: Path, decoder: Decoder) -> None:
    """The transform gets the tensor, the label the path."""
    image, label = VaecDataset(folder, transform=Crop(), label=name_of, decoder=decoder)[1]
    assert label == "1.VAEC" and torch.equal(image, Crop()(expected(folder, decoder)[1]))


def test_nothing_to_load_is_an_error(tmp_path: Path) -> None:
    """A folder without .vaec files, an empty list, a missing folder, and a file instead of one."""
    for nothing, name in ((tmp_path, "folder"), ([], "the list")):
        with pytest.raises(VaecError, match=rf"{name}.*has no \.vaec files") as caught:
            VaecDataset(nothing)
        assert caught.value.code == "NO_FILES"
    with pytest.raises(FileNotFoundError):
        VaecDataset(tmp_path / "missing")
    (tmp_path / "a.vaec").touch()
    with pytest.raises(NotADirectoryError):
        VaecDataset(tmp_path / "a.vaec")


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))), st.data())
def test_packed_paths_are_a_list(names: list[str], data: st.DataObject) -> None:
    """Indices, negative ones and slices give what a list gives, pickled or not; outside of it is an IndexError."""
    if not names:
        return
    paths = pickle.loads(pickle.dumps(VaecDataset(names).paths))
    assert list(paths) == names and len(paths) == len(names)
    place = data.draw(st.integers(-len(names), len(names) - 1))
    assert paths[place] == names[place] and paths[place:] == names[place:]
    for outside in (len(names), -len(names) - 1):
        with pytest.raises(IndexError):
            paths[outside]


# --- DataLoader -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_what_this_process_gives(folder: Path, decoder: Decoder, start: str) -> None:
    """Two workers, forked after torch has computed here or spawned anew, deliver the same batches."""
    before = expected(folder, decoder)
    dataset = VaecDataset(folder, label=name_of, decoder=decoder)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=start, timeout=120)
    batches = list(loader)
    assert torch.equal(torch.cat([images for images, _ in batches]), before)
    assert [label for _, labels in batches for label in labels] == [os.path.basename(name) for name in sorted(NAMES)]


@pytest.mark.engines("native", "torch")
def test_a_batch_is_decoded_as_a_batch(folder: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """DataLoader's batches, and those of a subset, reach `Codec.decode_batch` whole."""
    sizes, decode_batch = [], Codec.decode_batch

    def watched(codec: Codec, files: list[bytes], **options: object) -> list[torch.Tensor]:
        sizes.append(len(files))
        return decode_batch(codec, files, **options)

    monkeypatch.setattr(Codec, "decode_batch", watched)
    list(DataLoader(Subset(VaecDataset(folder, decoder=decoder), range(4)), batch_size=3))
    assert sizes == [3, 1]


def test_bytes_pass_through_to_be_decoded_later(folder: Path, decoder: Decoder) -> None:
    """Without a decoder, DataLoader's own collate leaves bytes as they are, with labels and without."""
    plain = DataLoader(VaecDataset(folder, decoder=None), batch_size=3)
    assert torch.equal(torch.stack([image for files in plain for image in decoder(files)]), expected(folder, decoder))
    labelled = DataLoader(VaecDataset(folder, decoder=None, label=len), batch_size=5)
    files, labels = next(iter(labelled))
    assert all(map(vaecodec.is_vaec, files)) and labels.dtype == torch.int64 and len(labels) == 5


def test_a_damaged_file_stops_the_loader_with_its_name(folder: Path, decoder: Decoder, tmp_path: Path) -> None:
    """Nothing wrong is ever trained on."""
    bad = tmp_path / "bad.vaec"
    bad.write_bytes(damaged(folder / "a.vaec"))
    with pytest.raises(VaecChecksumError, match=r"bad\.vaec: "):
        list(DataLoader(VaecDataset([folder / "a.vaec", bad], decoder=decoder), batch_size=2))


def test_importing_loads_no_library() -> None:
    """Neither torch nor what the recipes are for is loaded by the import, nor by listing a folder."""
    code = "import sys, vaecodec.data; print([m for m in ('torch', 'webdataset', 'datasets') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


# --- other libraries --------------------------------------------------------------------------------------------------


@leaves_files_open
def test_webdataset_decodes_with_the_handler(folder: Path, decoder: Decoder, tmp_path: Path) -> None:
    """Written and read by webdataset: .vaec entries become tensors, others are left to other handlers."""
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed: extra [data]")
    with webdataset.TarWriter(str(tmp_path / "shard.tar")) as shard:
        for name in sorted(NAMES):
            content = (folder / name).read_bytes()
            shard.write({"__key__": name.split(".")[0], "vaec": content, "right.vaec": content, "cls": 7})
    shards = webdataset.WebDataset(str(tmp_path / "shard.tar"), shardshuffle=False).decode(decoder.webdataset)
    samples = list(shards.to_tuple("vaec", "right.vaec", "cls"))
    assert torch.equal(torch.stack([left for left, _, _ in samples]), expected(folder, decoder))
    assert all(torch.equal(left, right) and label == 7 for left, right, label in samples)


@leaves_files_open
def test_webdataset_decides_about_damaged_files(folder: Path, decoder: Decoder, tmp_path: Path) -> None:
    """The handler raises what `Codec.decode` raises, so that webdataset's own handlers of errors work."""
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed: extra [data]")
    with webdataset.TarWriter(str(tmp_path / "shard.tar")) as shard:
        shard.write({"__key__": "bad", "vaec": damaged(folder / "a.vaec")})
        shard.write({"__key__": "good", "vaec": (folder / "a.vaec").read_bytes()})
    shards = webdataset.WebDataset(str(tmp_path / "shard.tar"), shardshuffle=False)
    kept = shards.decode(decoder.webdataset, handler=webdataset.ignore_and_continue)
    assert [sample["__key__"] for sample in kept] == ["good"]


def test_the_image_feature_of_datasets_opens_vaec_files(shipped: Codec, tmp_path: Path) -> None:
    """Through Pillow, once vaecodec is imported: from paths and from stored bytes."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: extra [data]")
    (tmp_path / "a.vaec").write_bytes(shipped.encode(picture(*SIZE), 60))
    values = [str(tmp_path / "a.vaec"), {"path": None, "bytes": (tmp_path / "a.vaec").read_bytes()}]
    for value in values:
        image = datasets.Dataset.from_dict({"image": [value]}).cast_column("image", datasets.Image())[0]["image"]
        assert image.format == "VAEC"
        assert np.array_equal(image, shipped.decode(tmp_path / "a.vaec", output="numpy"))


@pytest.mark.slow
def test_datasets_decodes_with_the_transform(folder: Path, decoder: Decoder, tmp_path: Path) -> None:
    """Columns of undecoded images and of bytes become tensors; other columns, and their order, stay."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: extra [data]")
    paths = [str(folder / name) for name in sorted(NAMES)]
    images = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image(decode=False))
    stored = datasets.Dataset.from_list([{"image": Path(path).read_bytes(), "label": 7} for path in paths])
    stored.to_parquet(str(tmp_path / "stored.parquet"))
    stored = datasets.Dataset.from_parquet(str(tmp_path / "stored.parquet"), cache_dir=str(tmp_path))
    for dataset in (images, stored):
        dataset.set_transform(decoder.huggingface("image"))
        assert torch.equal(torch.stack(dataset[:]["image"]), expected(folder, decoder))
    assert stored[0]["label"] == 7


def test_imageio_reads_and_writes(tmp_path: Path, shipped: Codec) -> None:
    """After `import vaecodec`, imread and imwrite know the format."""
    imageio = pytest.importorskip("imageio.v3", reason="imageio is not installed: extra [data]")
    imageio.imwrite(tmp_path / "a.vaec", picture(32, 48), quality=50)
    assert np.array_equal(imageio.imread(tmp_path / "a.vaec"), shipped.decode(tmp_path / "a.vaec", output="numpy"))
    assert imageio.improps(tmp_path / "a.vaec").shape == (32, 48, 3)
    assert imageio.immeta(tmp_path / "a.vaec")["vaec"]["quality"] == 50
    with imageio.imopen(tmp_path / "a.vaec", "r") as opened:
        assert type(opened).__name__ == "PillowPlugin"
    data = imageio.imwrite("<bytes>", picture(32, 48), plugin="pillow", extension=".vaec", quality=50)
    assert data == (tmp_path / "a.vaec").read_bytes()
    assert np.array_equal(imageio.imread(data), imageio.imread(tmp_path / "a.vaec"))
    with pytest.raises(OSError, match="file"):
        imageio.imread(data[:-9])


def recipes() -> list[tuple[str, str]]:
    """(title, code) of every example in docs/data.md."""
    sections = RECIPES.read_text().split("\n## ")[1:]
    found = [(each.splitlines()[0], re.findall(r"```python\n(.*?)```", each, re.DOTALL)) for each in sections]
    return [(title, code) for title, codes in found for code in codes]


@pytest.mark.slow
@leaves_files_open
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(("title", "code"), recipes(), ids=[title for title, _ in recipes()])
def test_the_recipes_work(
    title: str, code: str, shipped: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every example of docs/data.md runs as it stands, but for the GPU."""
    for package in re.findall(r"^(?:import|from) (webdataset|datasets|imageio)", code, re.MULTILINE):
        pytest.importorskip(package, reason=f"{package} is not installed: extra [data]")
    (tmp_path / "photos").mkdir()
    for name in "abcde":
        (tmp_path / "photos" / f"{name}.vaec").write_bytes(shipped.encode(picture(40, 48), 60))
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"cuda"', '"cpu"'), {})
