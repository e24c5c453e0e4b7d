"""Training data: .vaec files as uint8 tensors for torch's DataLoader, webdataset and Hugging Face datasets.

Decoding in worker processes, on the CPU:

    dataset = VaecDataset("photos", decoder=Decoder(region=RandomSquare(224)))
    for images in DataLoader(dataset, batch_size=64, num_workers=4): ...    # uint8 [64, 3, 224, 224]

Decoding on the GPU: the workers only read, the DataLoader hands bytes through as they are:

    decoder = Decoder(device="cuda")
    for files in DataLoader(VaecDataset("photos", decoder=None), batch_size=64, num_workers=4):
        images = decoder(files)                                             # 64 tensors, uint8 [3, H, W], on the GPU

Importing this module loads none of these libraries; docs/data.md has the recipes for all of them.
"""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from vaecodec.codec import Codec
from vaecodec.errors import VaecError, VaecImageError, VaecModelError, VaecResourceError
from vaecodec.format import sources
from vaecodec.format.records import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".vaec"

Box = tuple[int, int, int, int]

_MODES = ("RGB", "stored")


@dataclass(frozen=True)
class RandomSquare:
    """A region for `Decoder`: a square anywhere in the picture, drawn from torch's generator.

    Attributes:
        side_px: of the square; a picture that is smaller is taken as far as it goes.
    """

    side_px: int

    def __call__(self, width: int, height: int) -> Box:
        """A box (left, top, right, bottom) in a picture of this size in pixels."""
        import torch  # loaded by whoever asks for tensors

        left, top = (int(torch.randint(max(1, side - self.side_px + 1), ())) for side in (width, height))
        return left, top, min(width, left + self.side_px), min(height, top + self.side_px)


@dataclass(frozen=True)
class Decoder:
    """Decodes .vaec files to tensors. Worker processes may have it, forked or spawned: it is quick to make and to copy.

    The weights are loaded with the first picture, once a process.

    Attributes:
        mode: "RGB" gives every picture three channels (grey is repeated, alpha is dropped, the colour below it stays as
            it was stored); "stored" leaves 1 (L), 2 (LA), 3 (RGB) or 4 (RGBA).
        device: where to decode, and where the tensors are; as for `Codec`. In forked workers only "cpu" works.
        model: path of a weights file; None is the built-in one.
        max_pixels: refuse larger pictures before anything is allocated for them.
        scale: 1, or 1/2, 1/4 or 1/8 for smaller pictures in less time: see `Codec.decode`.
        region: a box (left, top, right, bottom) in pixels, or a function that makes one of a picture's width and
            height, such as `RandomSquare`: no more is decoded than it needs. None is the whole picture.

    Raises:
        VaecImageError: (ARGUMENT) the mode is not one of these, or a region is to be scaled.
    """

    mode: Literal["RGB", "stored"] = "RGB"
    device: str = "cpu"
    model: str | Path | None = None
    max_pixels: int | None = DEFAULT_MAX_PIXELS
    scale: float = 1
    region: Box | Callable[[int, int], Box] | None = None

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise VaecImageError(f"mode is {self.mode!r}, must be one of {', '.join(_MODES)}", code="ARGUMENT")
        if self.region is not None and self.scale != 1:
            raise VaecImageError("region and scale exclude each other: give one", code="ARGUMENT")

    def __call__(self, files: Sequence[sources.Source], names: Sequence[str] | None = None) -> "list[Tensor]":
        """Decode a batch.

        Args:
            files: each the bytes, the path or the open binary file of a picture; sizes may differ.
            names: how to call them in errors; a path is called by itself, bytes by their number.

        Returns:
            A tensor for each, in order: uint8 [C, H, W], contiguous, on the device.

        Raises:
            VaecError: a file cannot be decoded; the message names it, unless it is the device or the memory that is at
                fault. Code and class as of `Codec.decode`.
            OSError: a file cannot be read.
        """
        from torch.utils.data import get_worker_info  # torch loads with the first picture

        codec, contents = Codec(self.model, self.device), [sources.read_all(file) for file in files]
        if get_worker_info():  # beside others, one for each core
            codec.engine.use_one_thread()
        called = names or [_name(file, number) for number, file in enumerate(files)]
        tensors = self._decode_together(codec, contents) if self.region is None else None
        if tensors is None:
            tensors = [self._decode_one(codec, *each) for each in zip(contents, called, strict=True)]
        return [_as_rgb(tensor) for tensor in tensors] if self.mode == "RGB" else tensors

    def webdataset(self, key: str, data: bytes) -> "Tensor | None":
        """A handler for webdataset: `dataset.decode(Decoder().webdataset)`.

        Args:
            key: what follows the name of the sample, such as ".vaec" or ".left.vaec".
            data: the file.

        Returns:
            uint8 [C, H, W]; None for other files, which are left to other handlers.

        Raises:
            VaecError: it cannot be decoded; `decode(..., handler=)` of webdataset says what becomes of it.
        """
        return self([data], [key])[0] if key.lower().endswith(SUFFIX) else None

    def huggingface(self, *columns: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """A transform for Hugging Face datasets: `dataset.set_transform(Decoder().huggingface("image"))`.

        Args:
            *columns: those that hold pictures, of type `Image(decode=False)`, binary or string (a path).

        Returns:
            A function from a batch of rows to the same with a list of tensors, uint8 [C, H, W], in these columns.
        """
        return partial(_decode_columns, self, columns)

    def _decode_together(self, codec: Codec, contents: Sequence[bytes]) -> "list[Tensor] | None":
        """Nothing if one of them cannot be decoded: which one, only decoding them one by one tells."""
        try:
            return codec.decode_batch(contents, output="torch", max_pixels=self.max_pixels, scale=self.scale)
        except VaecError as error:
            if _is_of_machine(error):
                raise
            return None

    def _decode_one(self, codec: Codec, content: bytes, name: str) -> "Tensor":
        try:
            if self.region is None:
                return codec.decode(content, output="torch", max_pixels=self.max_pixels, scale=self.scale)
            header = sources.info(content, max_pixels=self.max_pixels).header
            box = self.region(header.width, header.height) if callable(self.region) else self.region
            return codec.decode_region(content, box, output="torch", max_pixels=self.max_pixels)
        except VaecError as error:
            if _is_of_machine(error):
                raise
            raise type(error)(f"{name}: {error.message}", code=error.code, tile=error.tile) from error


class VaecDataset:
    """A folder of .vaec files for torch's DataLoader: a map-style dataset of uint8 tensors [C, H, W].

    Args:
        source: a folder, in which all .vaec files at any depth are taken, in order of their paths; or paths, in their
            own order.
        transform: called with each tensor; what it returns takes its place. DataLoader joins tensors of one size only,
            so pictures of different sizes need a crop here, or a `collate_fn`.
        label: called with each path; the item is then (picture, label).
        decoder: how to decode; None leaves the bytes of the files, for decoding whole batches on a GPU later. Then the
            transform gets bytes.

    Attributes:
        paths: of the files, as strings.

    Raises:
        VaecError: (NO_FILES) the folder has no .vaec file, or no path was given.
        OSError: the folder, or one in it, cannot be read.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        transform: Callable[[Any], Any] | None = None,
        label: Callable[[str], Any] | None = None,
        decoder: Decoder | None = Decoder(),
    ) -> None:
        if isinstance(source, str | os.PathLike):
            place, paths = f"the folder {os.fspath(source)!r}", _in_folder(os.fspath(source))
        else:
            place, paths = "the list", (os.fspath(path) for path in source)
        self.paths = _Paths(paths)
        self.transform, self.label, self.decoder = transform, label, decoder
        if not len(self.paths):
            raise VaecError(f"{place} has no {SUFFIX} files, must have at least one", code="NO_FILES")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        """One item; raises as `Decoder.__call__`, and IndexError."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several items at once: DataLoader asks for its batches so, and they are decoded as a batch."""
        paths = [self.paths[index] for index in indices]
        pictures: list[Any] = [*map(sources.read_all, paths)] if self.decoder is None else self.decoder(paths)
        if self.transform is not None:
            pictures = [self.transform(picture) for picture in pictures]
        if self.label is None:
            return pictures
        return [(picture, self.label(path)) for picture, path in zip(pictures, paths, strict=True)]


class _Paths(Sequence[str]):
    """Many paths in one block of bytes.

    A list would be copied into every forked worker, string by string, because counting references writes to each.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._ends = array("Q", [0])
        text = bytearray()
        for path in paths:
            text += os.fsencode(path)
            self._ends.append(len(text))
        self._text = bytes(text)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # as a list counts from the end, and raises IndexError
        return os.fsdecode(self._text[self._ends[place] : self._ends[place + 1]])


def _in_folder(folder: str) -> Iterator[str]:
    """The .vaec files of a folder, in an order that does not depend on the file system; hidden ones are left out."""

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        picked = (name for name in files if name.lower().endswith(SUFFIX) and not name.startswith("."))
        found += [os.path.join(parent, name) for name in picked]
    yield from sorted(found)


def _decode_columns(decoder: Decoder, columns: Sequence[str], batch: dict[str, Any]) -> dict[str, Any]:
    decoded = {name: decoder([_content(value) for value in batch[name]]) for name in columns if name in batch}
    return {**batch, **decoded}


def _is_of_machine(error: VaecError) -> bool:
    """Whether the device, the weights or the memory are at fault, and no file is."""
    return isinstance(error, VaecModelError | VaecResourceError) and error.code != "MODEL_MISSING"


def _name(file: sources.Source, number: int) -> str:
    return os.fsdecode(file) if isinstance(file, str | os.PathLike) else f"file {number} of the batch"


def _content(value: Any) -> sources.Source:
    """Where the bytes of a picture are, of what a column of images without decoding holds."""
    if isinstance(value, dict):
        return value["path"] if value["bytes"] is None else value["bytes"]
    return value


def _as_rgb(tensor: "Tensor") -> "Tensor":
    channels = tensor.shape[0]
    if channels == 3:
        return tensor
    colour = tensor[:3] if channels == 4 else tensor[:1].expand(3, -1, -1)
    return colour.contiguous()
