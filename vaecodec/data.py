"""Training data: .vaec files as uint8 tensors for torch's DataLoader, webdataset and Hugging Face datasets.

Decoding in worker processes, on the CPU:

    dataset = VaecDataset("photos", decoder=Decoder(region=RandomSquare(224)))
    for images in DataLoader(dataset, batch_size=64, num_workers=4): ...    # uint8 [64, 3, 224, 224]

Decoding on the GPU; the workers only read, and the DataLoader passes bytes through unchanged:

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
    """A random square as the region of a `Decoder`, drawn from torch's generator.

    Attributes:
        side_px: side of the square in pixels; limited to the picture if that is smaller.

    Example:
        >>> Decoder(region=RandomSquare(224))(["photo.vaec"])[0].shape
        torch.Size([3, 224, 224])
    """

    side_px: int

    def __call__(self, width: int, height: int) -> Box:
        """A box (left, top, right, bottom) in a picture of this size in pixels."""
        import torch  # deferred: importing this module must not load torch

        left, top = (int(torch.randint(max(1, side - self.side_px + 1), ())) for side in (width, height))
        return left, top, min(width, left + self.side_px), min(height, top + self.side_px)


@dataclass(frozen=True)
class Decoder:
    """Decodes .vaec files to tensors. Cheap to create and to pickle, so forked and spawned workers can use it.

    The weights are loaded with the first picture, once per process.

    Attributes:
        mode: "RGB" gives every picture three channels (grey is repeated, alpha is dropped, the colours under it stay
            unchanged); "stored" keeps the 1 (L), 2 (LA), 3 (RGB) or 4 (RGBA) channels of the file.
        device: where to decode, and where the tensors are; as for `Codec`. In forked workers only "cpu" works.
        model: path of a weights file; None uses the built-in weights.
        max_pixels: refuse larger pictures before allocating anything for them.
        scale: 1, or 1/2, 1/4 or 1/8 for smaller pictures in less time: see `Codec.decode`.
        region: a box (left, top, right, bottom) in pixels, or a function of a picture's width and height that returns
            one, such as `RandomSquare`. Only the tiles under it are decoded. None is the whole picture.

    Raises:
        VaecImageError: (ARGUMENT) the mode is unknown, or both a region and a scale are given.

    Example:
        >>> [picture.shape for picture in Decoder()(["photo.vaec"])]
        [torch.Size([3, 512, 768])]
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
            raise VaecImageError("region and scale cannot be combined: give only one", code="ARGUMENT")

    def __call__(self, files: Sequence[sources.Source], names: Sequence[str] | None = None) -> "list[Tensor]":
        """Decode a batch.

        Args:
            files: bytes, paths or open binary files; sizes may differ.
            names: names of the files in errors; by default the path, or the number in the batch.

        Returns:
            One tensor per file, in order: uint8 [C, H, W], contiguous, on the device.

        Raises:
            VaecError: a file cannot be decoded; same class and code as from `Codec.decode`. The message names the file,
                unless the device or memory is the cause.
            OSError: a file cannot be read.
        """
        from torch.utils.data import get_worker_info  # torch loads with the first picture

        codec, contents = Codec(self.model, self.device), [sources.read_all(file) for file in files]
        if get_worker_info():  # there is usually one worker per core
            codec.engine.use_one_thread()
        called = names or [_name(file, number) for number, file in enumerate(files)]
        tensors = self._decode_together(codec, contents) if self.region is None else None
        if tensors is None:
            tensors = [self._decode_one(codec, *each) for each in zip(contents, called, strict=True)]
        return [_as_rgb(tensor) for tensor in tensors] if self.mode == "RGB" else tensors

    def webdataset(self, key: str, data: bytes) -> "Tensor | None":
        """A handler for webdataset: `dataset.decode(Decoder().webdataset)`.

        Args:
            key: the part after the sample's name, such as ".vaec" or ".left.vaec".
            data: the file.

        Returns:
            uint8 [C, H, W]; None for other files, which are left to other handlers.

        Raises:
            VaecError: the file cannot be decoded; webdataset's `decode(..., handler=)` decides what happens then.
        """
        return self([data], [key])[0] if key.lower().endswith(SUFFIX) else None

    def huggingface(self, *columns: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """A transform for Hugging Face datasets: `dataset.set_transform(Decoder().huggingface("image"))`.

        Args:
            *columns: names of columns with pictures, of type `Image(decode=False)`, binary or string (a path).

        Returns:
            A function that replaces these columns of a batch with lists of tensors, uint8 [C, H, W].
        """
        return partial(_decode_columns, self, columns)

    def _decode_together(self, codec: Codec, contents: Sequence[bytes]) -> "list[Tensor] | None":
        """The decoded batch; None if a file fails, since only decoding them one by one shows which."""
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
        source: a folder, of which all .vaec files at any depth are used, in the order of their paths; or a list of
            paths, used in the given order.
        transform: called with each tensor; returns its replacement. DataLoader stacks only tensors of equal size, so
            pictures of different sizes need a crop here, or a `collate_fn`.
        label: called with each path; items are then (picture, label).
        decoder: how to decode; None yields the bytes of the files, for decoding whole batches on a GPU. The transform
            then gets bytes.

    Attributes:
        paths: of the files, as strings.

    Raises:
        VaecError: (NO_FILES) the folder has no .vaec file, or the list is empty.
        OSError: the folder, or one below it, cannot be read.

    Example:
        >>> VaecDataset("photos")[0].dtype
        torch.uint8
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
        """Returns one item; raises IndexError, and the errors of `Decoder.__call__`."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Returns several items, decoded as a batch; DataLoader calls this for its batches."""
        paths = [self.paths[index] for index in indices]
        pictures: list[Any] = [*map(sources.read_all, paths)] if self.decoder is None else self.decoder(paths)
        if self.transform is not None:
            pictures = [self.transform(picture) for picture in pictures]
        if self.label is None:
            return pictures
        return [(picture, self.label(path)) for picture, path in zip(pictures, paths, strict=True)]


class _Paths(Sequence[str]):
    """Many paths in one block of bytes.

    A list would be copied into every forked worker, string by string, because reference counting writes to each.
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
        place = range(len(self))[index]  # handles negative numbers and raises IndexError, like a list
        return os.fsdecode(self._text[self._ends[place] : self._ends[place + 1]])


def _in_folder(folder: str) -> Iterator[str]:
    """The .vaec files of a folder, except hidden ones, in an order that does not depend on the file system."""

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
    """Whether the device, the weights or memory caused the error, not a file."""
    return isinstance(error, VaecModelError | VaecResourceError) and error.code != "MODEL_MISSING"


def _name(file: sources.Source, number: int) -> str:
    return os.fsdecode(file) if isinstance(file, str | os.PathLike) else f"file {number} of the batch"


def _content(value: Any) -> sources.Source:
    """The source of a picture from an entry of an undecoded image column."""
    if isinstance(value, dict):
        return value["path"] if value["bytes"] is None else value["bytes"]
    return value


def _as_rgb(tensor: "Tensor") -> "Tensor":
    channels = tensor.shape[0]
    if channels == 3:
        return tensor
    colour = tensor[:3] if channels == 4 else tensor[:1].expand(3, -1, -1)
    return colour.contiguous()
