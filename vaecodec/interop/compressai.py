"""Interface to compressai: the network as one of its models, for its tools and losses; its models in .vaec files.

`python -m vaecodec.interop.compressai` is `python -m compressai.utils.eval_model` with the network among its models;
with `plot` as its first argument, it is `python -m compressai.utils.plot`.
"""

import hashlib
import importlib.util
import math
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

if __name__ == "__main__" and not all(map(importlib.util.find_spec, ("torch", "compressai"))):
    print("error: this needs compressai: pip install 'vaecodec[compressai]'", file=sys.stderr)
    sys.exit(2)

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vaecodec.codec import Codec
from vaecodec.errors import (
    VaecCorruptError,
    VaecError,
    VaecImageError,
    VaecMismatchError,
    VaecModelError,
    is_shortage,
    translated_errors,
)
from vaecodec.format import container, sources
from vaecodec.format.external import External, is_name
from vaecodec.format.records import DEFAULT_MAX_PIXELS, TILE_LOG2_MAX, Header, PixelFormat, Tile, TileBox, TileMode
from vaecodec.model import coding, engines, weights
from vaecodec.model.architecture import CUTS_IN_ALL, DEFAULT_TUNE, HYPER_STRIDE, LATENT_STRIDE, QUALITIES, Architecture
from vaecodec.model.coding import quality_level
from vaecodec.model.engine import Engine
from vaecodec.pictures import pixels
from vaecodec.runtime.files import write_whole
from vaecodec.tiling.canvas import check_finite, cut, to_rgb
from vaecodec.tiling.decode import mismatch
from vaecodec.tiling.options import Output, Presentation
from vaecodec.tiling.tile import decode_plain, encode_latents, plain_tile
from vaecodec.training.bottleneck import import_compressai
from vaecodec.training.data import Pictures
from vaecodec.training.distortion import rd_lambda
from vaecodec.training.export import Calibration
from vaecodec.training.export import export as export_weights
from vaecodec.training.objective import TrainingModel
from vaecodec.training.priors import HYPER_PRIORS, hyper_prior_kind
from vaecodec.training.start import from_weights

import_compressai()

from compressai import zoo  # noqa: E402
from compressai.entropy_models import EntropyModel  # noqa: E402
from compressai.models import CompressionModel  # noqa: E402
from compressai.registry import register_model  # noqa: E402

NAME = "vaecodec"
STRIDE_PX = LATENT_STRIDE * HYPER_STRIDE

# --- the network as one of compressai's models ------------------------------------------------------------------------


@register_model(NAME)
class VaeModel(CompressionModel):
    """The network of a weights file as a compressai model: train it, measure it, export it.

    `forward` is the differentiable model for training. `compress` and `decompress` are the codec, with integer tables
    from a weights file: that of `from_weights`, or one that `update` has made from the trained network.

    Args:
        architecture: widths and depths.
        quality: the quality to work at, 1 to 100; can be set at any time.
        hyper_prior: density of the hyper-latents in training: logistics, or bottleneck (compressai's).

    Attributes:
        network: the trainable network.

    Raises:
        VaecImageError: (ARGUMENT) the quality or the density is not allowed.

    Example:
        >>> model = VaeModel.from_weights(quality=40)
        >>> coded = model.eval().compress(x)  # [1, 3, 512, 768] in 0..1
        >>> model.decompress(**coded)["x_hat"].shape
        torch.Size([1, 3, 512, 768])
    """

    widths: Tensor
    stated_quality: Tensor
    weights_file: Tensor
    weights_of: Tensor

    def __init__(
        self, architecture: Architecture = Architecture(), quality: int = 75, hyper_prior: str = "logistics"
    ) -> None:
        if hyper_prior not in HYPER_PRIORS:
            message = f"hyper_prior is {hyper_prior!r}, must be one of {', '.join(HYPER_PRIORS)}"
            raise VaecImageError(message, code="ARGUMENT")
        super().__init__()
        self.network = TrainingModel(architecture, hyper_prior)
        # Tensors, so that `from_state_dict` needs nothing but a checkpoint.
        self.register_buffer("widths", torch.tensor(astuple(architecture)))
        self.register_buffer("stated_quality", torch.tensor(0))
        self.register_buffer("weights_file", torch.zeros(0, dtype=torch.uint8))  # its bytes
        self.register_buffer("weights_of", torch.tensor(0))  # checksum of the parameters that it was made from
        self.quality = quality
        self._ready: tuple[object, Engine] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ready": None}  # copies and other processes load their own

    @classmethod
    def from_weights(
        cls, path: str | Path | None = None, *, tune: str = DEFAULT_TUNE, quality: int = 75,
        hyper_prior: str = "logistics",
    ) -> Self:  # fmt: skip
        """The model of a weights file, or of the built-in one of a tune, ready to code and to be trained on.

        Raises:
            VaecImageError: (ARGUMENT) tune, quality or density is not allowed.
            VaecModelError: as in `weights.load`.
        """
        data = weights.read(None if path is None else Path(path), engines.check_tune(tune))
        stored = weights.parse(data)
        model = cls(stored.arch, quality, hyper_prior)
        model.network = from_weights(stored, hyper_prior)
        model._keep(data)
        return model

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> Self:
        """The model of a checkpoint, which holds architecture, quality and density.

        Raises:
            VaecModelError: (CHECKPOINT) it is one of another model.
        """
        if missing := {"widths", "stated_quality"} - set(state_dict):
            raise VaecModelError(
                f"not a checkpoint of VaeModel: it has no {', '.join(sorted(missing))}", code="CHECKPOINT"
            )
        network = {name.removeprefix("network."): values for name, values in state_dict.items()}
        architecture = Architecture(*state_dict["widths"].tolist())
        model = cls(architecture, int(state_dict["stated_quality"]), hyper_prior_kind(network))
        model.load_state_dict(dict(state_dict))
        return model

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True) -> Any:
        """As for any module, but the weights file in it may have any length."""
        if (data := state_dict.get("weights_file")) is not None:
            self.weights_file = self.weights_file.new_empty(data.shape)
        return super().load_state_dict(state_dict, strict=strict)

    @property
    def quality(self) -> int:
        """1 to 100."""
        return int(self.stated_quality)

    @quality.setter
    def quality(self, value: int) -> None:
        if value not in QUALITIES:
            raise VaecImageError(f"quality is {value}, must be 1 to 100", code="ARGUMENT")
        self.stated_quality.fill_(value)

    @property
    def lmbda(self) -> float:
        """The value of lambda for this quality, as compressai's `RateDistortionLoss` takes it."""
        return float(rd_lambda(torch.tensor(quality_level(self.quality))))

    @property
    def downsampling_factor(self) -> int:
        """Pixels per hyper-latent."""
        return STRIDE_PX

    def forward(self, x: Tensor, quality: Sequence[int] | None = None) -> dict[str, Any]:
        """Pictures "x_hat" and "likelihoods" of all latents "y" and hyper-latents "z".

        Args:
            x: [B, 3, H, W] in 0..1.
            quality: one per picture, instead of the model's, to train one network for all qualities.

        Raises:
            VaecImageError: (ARGUMENT) there is not one quality per picture, or one is not allowed.
        """
        qualities = [self.quality] * len(x) if quality is None else quality
        if len(qualities) != len(x) or any(each not in QUALITIES for each in qualities):
            message = f"quality is {quality}, must be one number from 1 to 100 for each of the {len(x)} pictures"
            raise VaecImageError(message, code="ARGUMENT")
        level = torch.tensor([quality_level(each) for each in qualities], dtype=torch.float32, device=x.device)
        pictures, latent_bits, hyper_bits = self.network.code(_padded(x), level)
        height, width = x.shape[2:]
        likelihoods = {"y": torch.exp2(-latent_bits), "z": torch.exp2(-hyper_bits)}
        return {"x_hat": pictures[:, :, :height, :width], "likelihoods": likelihoods}

    def aux_loss(self) -> Tensor:
        """The loss of the bottleneck's quantiles; 0 if there are none."""
        return self.network.hyper_prior.auxiliary_loss() + torch.zeros((), requires_grad=True)

    @torch.no_grad()
    def compress(self, x: Tensor) -> dict[str, Any]:
        """Encodes pictures to strings: tile payloads as in .vaec files, and a byte each for the header's deblocking.

        Args:
            x: [B, 3, H, W] in 0..1, H and W multiples of 16. Each picture is one tile, however large.

        Returns:
            "strings", [payloads, deblocking cuts], and "shape", rows and columns of latents.

        Raises:
            VaecImageError: (SHAPE, SIZE, NONFINITE) the pictures are not what the arguments say.
            VaecModelError: (TABLES) there are no tables, or the parameters have changed since.
        """
        if x.ndim != 4 or x.shape[1] != 3 or not len(x):
            raise VaecImageError(f"shape is {list(x.shape)}, must be [B, 3, H, W]", code="SHAPE")
        height, width = x.shape[2:]
        if height % LATENT_STRIDE or width % LATENT_STRIDE or not height * width:
            message = f"image size is {width} x {height}, both sides must be multiples of {LATENT_STRIDE} pixels"
            raise VaecImageError(f"{message}: pad the pictures", code="SIZE")
        if not bool(torch.isfinite(x).all()):
            raise VaecImageError("the pictures hold NaN or infinity, must be 0 to 1", code="NONFINITE")
        engine, quality = self._engine(), self.quality
        samples = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()
        payloads, cuts = [], []
        for each in samples:
            y = engine.analyze(each, quality)
            tile, y_hat = encode_latents(engine, y, quality)
            whole = slice(0, each.shape[0]), slice(0, each.shape[1])
            _, deblocking_cut, _ = engine.synthesize_like(y_hat, quality, each, whole)
            payloads.append(tile.payload)
            cuts.append(bytes([deblocking_cut]))
        return {"strings": [payloads, cuts], "shape": torch.Size(n // LATENT_STRIDE for n in samples.shape[1:3])}

    @torch.no_grad()
    def decompress(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> dict[str, Tensor]:
        """Pictures "x_hat" [B, 3, H, W] in 0..1, from the result of `compress` at the same quality.

        Raises:
            VaecCorruptError: a string is damaged, or strings and shape are not what `compress` returns.
            VaecModelError: (TABLES) as in `compress`.
        """
        engine, quality = self._engine(), self.quality
        if len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
            raise VaecCorruptError(f"shape is {tuple(shape)}, must be rows and columns of latents", code="SHAPE")
        if len(strings) != 2 or len(strings[0]) != len(strings[1]) or not strings[0]:
            raise VaecCorruptError("strings must be payloads and as many deblocking cuts", code="STRINGS")
        if any(len(each) != 1 or each[0] > CUTS_IN_ALL for each in strings[1]):
            raise VaecCorruptError(f"deblocking cuts must be one byte each, 0 to {CUTS_IN_ALL}", code="DEBLOCKING")
        rows, columns = shape
        pictures = []
        for payload, deblocking_cut in zip(*strings, strict=True):
            reader = engine.reader(payload)
            symbols = coding.read(engine, rows, columns, [quality], [reader.read])
            reader.finish()
            y_hat = coding.dequantize(engine, symbols, rows, columns, [quality])
            shown, are_finite = engine.synthesize(y_hat, [quality], [deblocking_cut[0]])
            pictures.append(torch.tensor(engine.to_numpy(check_finite(shown[0], are_finite[0]))))
        return {"x_hat": torch.stack(pictures).permute(0, 3, 1, 2).to(self.widths.device).float() / 255}

    def update(
        self, scale_table: object = None, force: bool = False, update_quantiles: bool = False, *,
        pictures: Pictures | str | Path | None = None, calibration: Calibration | None = None,
    ) -> bool:  # fmt: skip
        """Measures the integer tables that `compress` needs, on pictures.

        Without pictures, as compressai's tools call it, it does nothing and keeps existing tables.

        Args:
            scale_table: ignored, as the next two; for compatibility.
            force: ignored.
            update_quantiles: ignored.
            pictures: a folder of pictures, or `Pictures`.
            calibration: how much to measure.

        Returns:
            Whether tables were made.
        """
        if pictures is None:
            return False
        calibration = calibration or Calibration()
        found = pictures if isinstance(pictures, Pictures) else Pictures(Path(pictures), calibration.patch_px)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.safetensors"
            export_weights(self.network, found, path, calibration)
            self._keep(path.read_bytes())
        return True

    def export(self, path: str | Path) -> str:
        """Writes the weights file that `compress` uses, for `vaecodec --model`; returns its SHA-256 in hex.

        Raises:
            VaecModelError: (TABLES) as in `compress`.
        """
        data = self._stored()
        write_whole(Path(path), data)
        return hashlib.sha256(data).hexdigest()

    def _keep(self, data: bytes) -> None:
        self.weights_file = torch.tensor(np.frombuffer(data, np.uint8), device=self.widths.device)
        self.weights_of.fill_(_checksum(self.network.parameters()))

    def _stored(self) -> bytes:
        """The bytes of the weights file, if it matches the trained parameters."""
        if not self.weights_file.numel():
            raise VaecModelError(f"the model has no tables yet: {_UPDATE}", code="TABLES")
        if _checksum(self.network.parameters()) != int(self.weights_of):
            raise VaecModelError(f"the parameters have changed since the tables were made: {_UPDATE}", code="TABLES")
        return self.weights_file.cpu().numpy().tobytes()

    def _engine(self) -> Engine:
        """An engine for the weights file, on the model's device."""
        device = str(self.widths.device)
        state = device, self.weights_file.data_ptr(), [(each.data_ptr(), each._version) for each in self.parameters()]
        if self._ready is None or self._ready[0] != state:
            loaded = weights.parse(self._stored())
            self._ready = state, engines.load(loaded, device, engines.select("auto", device).kind)
        return self._ready[1]


_UPDATE = "call update(pictures=folder), which measures them"


def _checksum(tensors: Iterable[Tensor]) -> int:
    crc = 0
    for each in tensors:
        crc = zlib.crc32(each.detach().cpu().contiguous().numpy().tobytes(), crc)
    return crc


def _padded(x: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] padded to sides that are multiples of 64, by repeating the edge."""
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % STRIDE_PX, 0, -height % STRIDE_PX), mode="replicate")


def open_model(
    quality: int, metric: str = "mse", pretrained: bool = False, progress: bool = True, **kwargs: Any
) -> VaeModel:
    """The network as compressai's zoo opens models: qualities 1 to 100; for metric "mse" tune psnr, else tune eye."""
    if pretrained:
        return VaeModel.from_weights(tune="psnr" if metric == "mse" else "eye", quality=quality, **kwargs)
    return VaeModel(quality=quality, **kwargs)


zoo.image_models[NAME] = zoo.models[NAME] = open_model
zoo.image.model_architectures[NAME] = VaeModel

# --- compressai's models in .vaec files -------------------------------------------------------------------------------

DERIVED = (
    "_quantized_cdf",
    "_offset",
    "_cdf_length",
    "scale_table",
)  # buffers of entropy models that `update` computes
FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AssertionError,
)  # raised by models for wrong strings


class Container:
    """Any model of compressai as a codec of .vaec files.

    Files hold the model's strings, its name and the hash of its parameters. A container is for the parameters that the
    model has now: it checks them each time, and refuses to work once they have changed. The entropy parameters of these
    models are floats: a machine that computes other integers than the encoder raises an error (LATENT_CRC, TABLES). To
    avoid it, decode with the version of torch, the device and the number of threads that encoded.

    Args:
        model: a model after `update`, on any device; is put into eval mode. Not thread-safe: use one model per thread.
        name: name in compressai's zoo; for people only, a decoder compares the hash.
        quality: the model's quality on its own scale; for people only.

    Raises:
        VaecImageError: (ARGUMENT) the name or the quality cannot be stored, or the model needs no such container.
        VaecModelError: (TABLES) `update` has not been called.

    Example:
        >>> model = compressai.zoo.bmshj2018_hyperprior(quality=3, pretrained=True)
        >>> box = Container(model, "bmshj2018-hyperprior", quality=3)
        >>> data = box.encode("photo.png")
        >>> box.decode(data).size
        (768, 512)
    """

    def __init__(self, model: CompressionModel, name: str, quality: int = 1) -> None:
        if not is_name(name) or quality not in QUALITIES:
            message = f"name is {name!r} and quality {quality}, must be 1 to 64 printable characters and 1 to 100"
            raise VaecImageError(message, code="ARGUMENT")
        if not any(_entropy_models(model)):
            message = (
                f"{type(model).__name__} has no entropy model of compressai; vaecodec.Codec writes files of VaeModel"
            )
            raise VaecImageError(message, code="ARGUMENT")
        if any(each.quantized_cdf.numel() == 0 for _, each in _entropy_models(model)):
            raise VaecModelError("the model has no tables yet: call its update()", code="TABLES")
        self.model, self.name, self.quality = model.eval(), name, quality
        self._identity, self._checksum = _Identity.of(model), _checksum(model.state_dict().values())

    def encode(self, image: pixels.RowSource, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> bytes:
        """Encodes a picture: colour with the model, alpha losslessly.

        Pictures of more than 4096 pixels a side are coded in independent parts.

        Args:
            image: as in `Codec.encode`; L pictures are coded as grey RGB.
            max_pixels: as in `Codec.encode`.

        Raises:
            VaecImageError, VaecLimitError: as in `Codec.encode`.
            VaecModelError: (EXTERNAL_SHAPE) the model's strings need a shape that a file cannot hold; (TABLES) the
                model has changed since the container was made.
            VaecMismatchError: (LATENT_CRC) the model does not decode its own strings.
        """
        self._check_unchanged()
        with translated_errors(), closing(pixels.open_rows(image, max_pixels=max_pixels)) as rows:
            height, width, channels = rows.shape
            mode = next(mode for mode in PixelFormat if mode.channels == channels)
            header = Header(mode, width, height, self._identity.sha256[:4], self.quality, TILE_LOG2_MAX)
            samples = rows.read(0, height)
            tiles = [
                plain_tile(cut(samples, box)) if box.plane == "alpha" else self._encode(to_rgb(cut(samples, box)))
                for box in header.boxes()
            ]
            return container.write(header, tiles, rows.metadata)

    def decode(
        self, source: sources.Source, *, output: Output = "pil", max_pixels: int | None = DEFAULT_MAX_PIXELS
    ) -> Any:
        """Decodes a picture that this model has encoded.

        Args:
            source: the .vaec file: bytes, a path, or an open binary file.
            output: as in `Codec.decode`; "torch" is on the model's device.
            max_pixels: as in `Codec.decode`.

        Raises:
            VaecModelError: (MODEL_MISSING) another model encoded it; (TABLES) this one has changed since the container
                was made.
            VaecMismatchError: (TABLES, LATENT_CRC) this machine computes other integers than the one that encoded.
            VaecImageError: (ARGUMENT) there is no such output.
            VaecError: the file is damaged, or too large.
        """
        wanted = Presentation.checked(output).output
        self._check_unchanged()
        with translated_errors():
            stream = container.read(sources.read_all(source), max_pixels=max_pixels)
            header = stream.header
            if any(tile.mode.is_learned for tile in stream.tiles if tile):
                raise VaecModelError(
                    "the file needs weights of vaecodec: decode it with vaecodec.Codec", code="MODEL_MISSING"
                )
            picture = np.empty((header.height, header.width, header.pixel_format.channels), np.uint8)
            for number, (box, tile) in enumerate(zip(header.boxes(), stream.tiles, strict=True)):
                try:
                    cut(picture, box)[:] = self._decode(cast(Tile, tile), box)
                except VaecCorruptError as error:
                    raise mismatch(error, number) from error
            return Codec(device=str(self._device)).present(picture, stream.metadata, wanted)

    def _check_unchanged(self) -> None:
        """Reads all values: torch's version counters would miss what is written through `.data` or by numpy."""
        if _checksum(self.model.state_dict().values()) != self._checksum:
            message = (
                f"the parameters or tables of {self.name} have changed since its Container was made: make a new one"
            )
            raise VaecModelError(message, code="TABLES")

    def _encode(self, rgb: pixels.Samples) -> Tile:
        x = torch.tensor(rgb, device=self._device).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad(), _tapped(self.model, "quantize") as written:
            coded = self.model.compress(_padded(x))
        shape, strings = coded["shape"], [each[0] for each in coded["strings"]]
        if not all(isinstance(n, int) for n in shape) or tuple(shape) != self._shape(rgb.shape):
            message = f"{self.name} needs the shape {shape!r}, must be of a picture divided by downsampling_factor"
            raise VaecModelError(message, code="EXTERNAL_SHAPE")
        _, crc = self._run(strings, tuple(shape))
        if crc != written.crc():
            raise VaecMismatchError(f"{self.name} does not decode the latents that it encoded", code="LATENT_CRC")
        external = External(self._identity.sha256, self._identity.tables_crc, self.name, tuple(shape), tuple(strings))
        return Tile(TileMode.EXTERNAL, external.pack(), crc)

    def _decode(self, tile: Tile, box: TileBox) -> pixels.Samples:
        if tile.mode != TileMode.EXTERNAL:
            return decode_plain(tile, box)
        stored = External.unpack(tile.payload)
        if stored.model_sha256 != self._identity.sha256:
            raise VaecModelError(
                f"the file was encoded with {stored.name}, SHA-256 {stored.model_sha256.hex()[:16]}..., this is "
                f"{self.name}, {self._identity.sha256.hex()[:16]}...",
                code="MODEL_MISSING",
            )
        if stored.tables_crc != self._identity.tables_crc:
            raise VaecMismatchError(
                "update() has computed other tables here: load the state dict of the model that encoded, not only its "
                "parameters",
                code="TABLES",
            )
        if stored.shape != self._shape((box.height, box.width)):
            raise VaecCorruptError(f"the shape is {stored.shape}, which is not that of the tile", code="EXTERNAL_SHAPE")
        try:
            x_hat, crc = self._run(stored.strings, stored.shape)
        except FAILURES as error:
            if is_shortage(error) or isinstance(error, VaecError):
                raise
            raise VaecCorruptError(f"{stored.name} refuses the strings ({error})", code="EXTERNAL") from error
        if crc != tile.content_crc:
            message = f"latents have CRC {crc:08x}, the file says {tile.content_crc:08x}"
            raise VaecMismatchError(message, code="LATENT_CRC")
        shown = (x_hat[0, :, : box.height, : box.width].clamp(0, 1) * 255).round().permute(1, 2, 0)
        if not bool(torch.isfinite(shown).all()):
            raise VaecCorruptError("the latents do not synthesize to finite pixels", code="NONFINITE")
        rgb: pixels.Samples = shown.to(torch.uint8).cpu().numpy()
        return rgb if box.channels == 3 else ((rgb.sum(2, keepdims=True, dtype=np.uint16) + 1) // 3).astype(np.uint8)

    def _run(self, strings: Sequence[bytes], shape: tuple[int, ...]) -> tuple[Tensor, int]:
        """The decoded picture [1, 3, H, W], and the CRC-32 of its integers."""
        with torch.no_grad(), _tapped(self.model, "dequantize") as seen:
            x_hat = self.model.decompress([[each] for each in strings], torch.Size(shape))["x_hat"]
        return x_hat, seen.crc()

    def _shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """The shape argument of compressai's models for a picture of this size."""
        factor = getattr(self.model, "downsampling_factor", STRIDE_PX)
        return tuple(math.ceil(n / STRIDE_PX) * STRIDE_PX // factor for n in size[:2])

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


class _Identity(NamedTuple):
    """SHA-256 of a model's parameters and buffers without its tables, and the CRC-32 of the tables."""

    sha256: bytes
    tables_crc: int

    @classmethod
    def of(cls, model: CompressionModel) -> "_Identity":
        digest, crc = hashlib.sha256(), 0
        for name, values in sorted(model.state_dict().items()):
            data = values.detach().cpu().contiguous().numpy()
            described = f"{name} {data.dtype} {data.shape}".encode() + data.tobytes()
            if name.endswith(DERIVED):
                crc = zlib.crc32(described, crc)
            else:
                digest.update(described)
        return cls(digest.digest(), crc)


class _Seen:
    """Checksums of the integers that pass through entropy models; one each, because their order differs by model.

    Attributes:
        crcs: CRC-32 of the little-endian int32, by name of the entropy model.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.crcs = dict.fromkeys(names, 0)

    def add(self, name: str, symbols: Tensor) -> None:
        """Adds the next symbols of an entropy model."""
        self.crcs[name] = zlib.crc32(symbols.detach().cpu().numpy().astype("<i4").tobytes(), self.crcs[name])

    def crc(self) -> int:
        """The CRC-32 of all CRC-32s, sorted by name."""
        return zlib.crc32(b"".join(crc.to_bytes(4, "little") for _, crc in sorted(self.crcs.items())))


@contextmanager
def _tapped(model: CompressionModel, method: str) -> Iterator[_Seen]:
    """Observes the integers that a model encodes, in `quantize`, or has decoded, in `dequantize`."""
    found = dict(_entropy_models(model))
    seen = _Seen(list(found))

    def tap(name: str, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def quantize(inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
            result = original(inputs, mode, means)
            if mode == "symbols":
                seen.add(name, result)
            return result

        def dequantize(inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            seen.add(name, inputs)
            return original(inputs, *args, **kwargs)

        return quantize if method == "quantize" else dequantize

    for name, each in found.items():
        setattr(each, method, tap(name, getattr(each, method)))
    try:
        yield seen
    finally:
        for each in found.values():
            delattr(each, method)


def _entropy_models(model: CompressionModel) -> Iterator[tuple[str, Any]]:
    return ((name, each) for name, each in model.named_modules() if isinstance(each, EntropyModel))


def _run_tool(arguments: Sequence[str]) -> None:
    """Runs compressai's eval_model, or its plot; exits with code 2 and one line if the input is refused."""
    from compressai.utils.eval_model.__main__ import main as evaluate
    from compressai.utils.eval_model.__main__ import setup_args
    from compressai.utils.plot.__main__ import main as plot

    first, *others = arguments or [""]
    qualities = "1" if first == "plot" else getattr(setup_args().parse_args(arguments), "qualities", "1")
    try:
        if not all(each.strip().isdecimal() for each in qualities.split(",") if each):
            raise VaecImageError(f"-q is {qualities!r}, must be whole numbers separated by commas", code="ARGUMENT")
        if first == "plot":
            plot(others)
        else:
            evaluate(arguments)
    except Exception as error:  # what torch says of a file that is no checkpoint has many types
        print("error:", (str(error) or type(error).__name__).splitlines()[0], file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    _run_tool(sys.argv[1:])
