"""The torch engine: runs the network of one weights file on a CPU or a GPU, with exact integers and full float32."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vaecodec.entropy import coder
from vaecodec.entropy.tables import Pass, Tables
from vaecodec.errors import VaecModelError, keep_freed_memory
from vaecodec.model import coding
from vaecodec.model.architecture import (
    CUTS_IN_ALL,
    HYPER_STRIDE,
    LATENT_STRIDE,
    SCALE_ROWS,
    Architecture,
)
from vaecodec.model.coding import hyper_size, quality_level
from vaecodec.model.engine import SymbolsOfPass
from vaecodec.model.scales import ACTIVATION_LIMIT, HYPER_LIMIT, ROW_FRACTION_BITS, IntegerScales
from vaecodec.model.torch_engine.network import TOLERATED, Vae, border_ratio, fitting_cut
from vaecodec.model.weights import Weights
from vaecodec.runtime import forks


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Disables gradients and autocast, and computes float32 matrix products (and CUDA convolutions) in full precision.

    Torch's lower precisions are process-wide settings: they are off while any thread is in this context, and restored
    after the last one leaves.
    """
    tf32 = _NO_TF32 if device.type == "cuda" else nullcontext()
    with torch.inference_mode(), torch.autocast(device.type, enabled=False), _WHOLE_PRODUCTS, tf32:
        yield


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether to use bfloat16: only on CPUs that have instructions for it. GPUs are fast enough without it."""
    instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # exists from torch 2.5 to 2.15, undocumented
    return device.type == "cpu" and bool(instructions())


class _Shared:
    """A process-wide setting: changed by the first thread that enters, restored by the last that leaves."""

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change, self._lock, self._inside = change, threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._put_back = self._change()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._put_back()


def _tf32_off() -> Callable[[], None]:
    """Switches TF32 off in cuDNN's convolutions; returns a function that restores the setting.

    Torch 2.9 has a second interface, and raises in the first once a process has used the second. The first is tried
    first: whoever reads it meanwhile, in another thread, must not run into that error because of us.
    """
    cudnn = torch.backends.cudnn
    legacy = precision = None
    try:
        legacy = cudnn.allow_tf32
        cudnn.allow_tf32 = False
    except RuntimeError:
        pass
    convolutions = getattr(cudnn, "conv", None)
    if convolutions is not None and convolutions.fp32_precision not in ("ieee", "none"):
        precision = convolutions.fp32_precision
        convolutions.fp32_precision = "ieee"

    def put_back() -> None:
        if precision is not None:
            convolutions.fp32_precision = precision
        if legacy is not None:
            cudnn.allow_tf32 = legacy

    return put_back


def _whole_products() -> Callable[[], None]:
    """Selects full float32 matrix products, even if the device has faster ones; returns a function that restores it.

    Here too, the first interface raises once a process has used the second.
    """
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        return _whole_products_by_backend()
    if before == "highest":
        return lambda: None
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(before)


def _whole_products_by_backend() -> Callable[[], None]:
    """Like `_whole_products`, through the second interface."""
    backends: Any = torch.backends  # not fully typed
    products = backends.mkldnn.matmul, backends.cuda.matmul
    before = [product.fp32_precision for product in products]
    for product in products:
        product.fp32_precision = "ieee"

    def put_back() -> None:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision

    return put_back


_NO_TF32 = _Shared(_tf32_off)
_WHOLE_PRODUCTS = _Shared(_whole_products)


def settle_after_fork() -> None:
    """Gives torch one thread in a process forked while torch was loaded; it would wait for the parent's threads.

    Call this before torch computes anything for this package. Torch's DataLoader does the same in its workers.
    """
    if forks.forked_thread == threading.get_ident():
        forks.forked_thread = None
        torch.set_num_threads(1)


class TorchArrays:
    """Pictures as tensors that stay on a device: see `tiling.decode.Arrays`."""

    def __init__(self, device: str) -> None:
        settle_after_fork()
        self._device = pick_device(device)

    def full(self, shape: tuple[int, int, int], value: int) -> Tensor:
        """A picture filled with one value."""
        return torch.full(shape, value, dtype=torch.uint8, device=self._device)

    def take(self, samples: NDArray[np.uint8] | Tensor, engine: object = None) -> Tensor:
        """Moves samples to the device."""
        if isinstance(samples, Tensor):
            return samples.to(self._device)
        return torch.tensor(samples, device=self._device)  # a copy, because some samples are read-only

    @staticmethod
    def reduced(samples: Tensor, scale: int) -> Tensor:
        """Like `pictures.pixels.reduced`, with identical results, for a picture with alpha."""
        rows, columns = (
            torch.arange(-(-side // scale) * scale, device=samples.device).clamp(max=side - 1)
            for side in samples.shape[:2]
        )
        blocks = samples[rows][:, columns].float().unflatten(1, (-1, scale)).unflatten(0, (-1, scale))
        means, alpha = blocks.mean((1, 3)), blocks[..., -1:]
        weights = alpha.sum((1, 3))
        shown = (blocks[..., :-1] * alpha).sum((1, 3)) / weights.clamp(min=1)
        means[..., :-1] = torch.where(weights > 0, shown, means[..., :-1])
        return means.round().to(torch.uint8)

    @staticmethod
    def by_channels(picture: Tensor) -> Tensor:
        """Transposes a picture [H, W, C] to [C, H, W]."""
        return picture.permute(2, 0, 1).contiguous()


def pick_device(name: str) -> torch.device:
    """The torch device of a name; "auto" is CUDA if available, otherwise the CPU.

    Raises:
        VaecModelError: (DEVICE) there is no such device, or it lacks float64, which exact integers need.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:  # torch built without CUDA asserts
        raise VaecModelError(f"device {name!r} cannot be used: {error}", code="DEVICE") from error
    return device


TEST_SIDE = 16  # width of the hyper-latents of an ordinary tile, because libraries choose kernels by size
TEST_ROWS = 6  # only a few rows, because int64 is slow


class ExactScales:
    """Runs the integer network on one device.

    `carrier` is the dtype that carries the integers: float64 in use; int64 as the test's oracle (CPU only).
    """

    def __init__(self, stored: IntegerScales, device: torch.device, carrier: torch.dtype = torch.float64) -> None:
        self.stored, self.carrier = stored, carrier
        self._weights = [torch.tensor(layer.weight, dtype=carrier, device=device) for layer in stored.layers]
        self._biases = [torch.tensor(layer.bias, dtype=carrier, device=device) for layer in stored.layers]
        self._dequantize = torch.tensor(stored.dequantize, dtype=carrier, device=device)
        self._row_offset = torch.tensor(stored.row_offset, dtype=carrier, device=device)

    def table_indexes(self, z: Tensor, quality: int | Sequence[int], channels: int | None = None) -> Tensor:
        """Table indexes uint8 [B, M, 4 h, 4 w] of integer hyper-latents z [B, Z, h, w] (any dtype).

        The indexes of a position are contiguous in memory, in the order in which symbols are coded.

        Args:
            z: of B tiles.
            quality: 1..100, one for all tiles or one per tile.
            channels: compute only the first ones; None is all.
        """
        line = torch.tensor(quality, device=z.device).reshape(-1) - 1
        with full_precision(z.device):
            h = z.to(self.carrier, memory_format=torch.channels_last).clamp(-HYPER_LIMIT, HYPER_LIMIT)
            h = h * self._dequantize[line][:, :, None, None]
            h = self._layer(0, h).clamp_(0, ACTIVATION_LIMIT)
            h = F.pixel_shuffle(self._layer(1, h).clamp_(0, ACTIVATION_LIMIT), 2)
            h = self._layer(2, h).clamp_(0, ACTIVATION_LIMIT)
            # floor((floor(a / 2^s) + n) / 2^8) is floor((a + n 2^s) / 2^(s + 8)): one division instead of two, and one
            # sum of all that is added before them.
            shift = self.stored.layers[3].shift
            halves = (1 << (shift - 1)) + (1 << (shift + ROW_FRACTION_BITS - 1))
            offset = self._row_offset[line][:, :channels].repeat_interleave(4, 1) * (1 << shift) + halves
            h = self._floor(self.sums(3, h, offset.shape[1]).add_(offset[:, :, None, None]), shift + ROW_FRACTION_BITS)
            parts = h.clamp_(0, SCALE_ROWS - 1).to(torch.uint8).unflatten(1, (-1, 2, 2))  # a pixel shuffle, by position
            return parts.permute(0, 4, 2, 5, 3, 1).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def sums(self, number: int, x: Tensor, outputs: int | None = None) -> Tensor:
        """Sums [B, out, h, w] of a layer over inputs x [B, in, h, w] of the carrier's dtype, before its division.

        `outputs` selects the first ones; None is all.
        Rounding repairs what a Winograd or FFT kernel may leave at 1e-5.
        """
        weight, bias = self._weights[number][:outputs], self._biases[number][:outputs]
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2).round_()

    def _layer(self, number: int, x: Tensor) -> Tensor:
        return self._shift(self.sums(number, x), self.stored.layers[number].shift)

    def _shift(self, x: Tensor, bits: int) -> Tensor:
        """floor((x + 2^(bits-1)) / 2^bits), in place of x."""
        x += 1 << (bits - 1)
        return self._floor(x, bits)

    def _floor(self, x: Tensor, bits: int) -> Tensor:
        """floor(x / 2^bits), in place of x."""
        return x.bitwise_right_shift_(bits) if self.carrier == torch.int64 else x.mul_(2.0**-bits).floor_()

    def self_test(self) -> None:
        """Compares every sum of every layer, and the table indexes, with int64 arithmetic on the CPU.

        The indexes alone would not do: the divisions between layers hide small errors of most inputs.

        Raises:
            VaecModelError: (SELF_TEST) this device, build or setting does not compute integers exactly.
        """
        device, oracle = self._dequantize.device, ExactScales(self.stored, torch.device("cpu"), torch.int64)
        with full_precision(device):
            pairs = [
                (f"layer {number}", self.sums(number, x.to(device, self.carrier)), oracle.sums(number, x))
                for number in range(len(self.stored.layers)) for x in _test_inputs(self.stored, number)
            ]  # fmt: skip
        *hidden, last = (layer.shift for layer in self.stored.layers)
        for shift in {*hidden, last + ROW_FRACTION_BITS}:
            x = _around_ties(shift)
            here = self._shift(x.to(device, self.carrier), shift)
            pairs.append((f"division by 2^{shift}", here, oracle._shift(x, shift)))
        z = _pattern(self._dequantize.shape[1], 3, -HYPER_LIMIT, HYPER_LIMIT)
        pairs += [
            (f"quality {n}", self.table_indexes(z.to(device), n), oracle.table_indexes(z, n)) for n in (1, 50, 100)
        ]
        pairs += [("dequantization", self._dequantize, oracle._dequantize)]
        pairs += [("row offsets", self._row_offset, oracle._row_offset)]
        for name, here, expected in pairs:
            if not torch.equal(here.cpu(), expected.to(here.dtype)):
                raise VaecModelError(
                    f"{device} does not compute the scale network exactly ({name}) and cannot read or write .vaec",
                    code="SELF_TEST",
                )


def _test_inputs(stored: IntegerScales, number: int) -> Iterator[Tensor]:
    """Inputs int64 [1, in, h, w] of a layer: a pattern, and inputs that drive a sum close to its limits."""
    low, high = stored.input_range(number)
    weight = torch.tensor(stored.layers[number].weight, device="cpu")
    yield _pattern(weight.shape[1], TEST_SIDE, low, high)[:, :, :TEST_ROWS].contiguous()
    worst = weight[weight.to(torch.int64).abs().sum((1, 2, 3)).argmax()][None]
    spread = _pattern(weight.shape[1], weight.shape[-1], 0, 15)
    yield torch.where(worst > 0, high - spread, low + spread)
    yield torch.where(worst > 0, low + spread, high - spread)


def _around_ties(shift: int) -> Tensor:
    """Integers [3, n] around the values at which the rounded division by 2^shift changes, near 0 and at the limits."""
    halves = torch.arange(-9, 10, device="cpu")
    halves = torch.cat([halves, halves - 2 * ACTIVATION_LIMIT, halves + 2 * ACTIVATION_LIMIT])
    return (halves << (shift - 1)) + torch.arange(-1, 2, device="cpu")[:, None]


def _pattern(channels: int, side: int, low: int, high: int) -> Tensor:
    """Irregular integers low..high [1, channels, side, side], so that no error goes unnoticed."""
    numbers = torch.arange(channels * side**2, device="cpu") * 7919 % 4099
    return (low + numbers * (high - low) // 4098).reshape(1, channels, side, side)


LARGEST_PART_PX = 1 << 19  # pixels that a CPU computes at once
LARGEST_ON_GPU_PX = 1 << 23  # about 3 GB, estimated from tensor sizes; not measured
# Reading tiles and predicting their latents takes a third of a single-threaded decode. On two processors with two torch
# threads, helpers that read cost 5 to 9 % (docs/scale.md).
HELPED_THREADS, THREADS_PER_HELPER = 4, 2


class TorchEngine:
    """Transforms, integer scales and tables of one weights file on one device: see `model.engine.Engine`."""

    def __init__(
        self, vae: Vae, scales: ExactScales, *, hyper_tables: Tables, hyper_indexes: NDArray[np.uint8],
        latent_tables: tuple[Tables, ...], model_id: bytes, device: torch.device, eye: float = 1.0,
        restores: bool = False,
    ) -> None:  # fmt: skip
        self.vae, self.scales = vae, scales
        self.hyper_tables, self.hyper_indexes, self.latent_tables = hyper_tables, hyper_indexes, latent_tables
        self.model_id, self.device, self.eye, self.restores = model_id, device, eye, restores

    @property
    def arch(self) -> Architecture:
        """Widths and margins."""
        return self.vae.arch

    @property
    def is_cpu(self) -> bool:
        """Whether it computes on the CPU."""
        return self.device.type == "cpu"

    @property
    def at_once_px(self) -> int:
        """Pixels to compute at a time."""
        return LARGEST_PART_PX if self.is_cpu else LARGEST_ON_GPU_PX

    @property
    def joined_px(self) -> int:
        """0 on a CPU, which would gain nothing; tiles alone come out exactly as their encoder saw them."""
        return 0 if self.is_cpu else LARGEST_ON_GPU_PX

    @property
    def pictures_at_once(self) -> int:
        """On a CPU as many as torch has threads; a GPU parallelizes by itself."""
        return torch.get_num_threads() if self.is_cpu else 1

    @property
    def helpers(self) -> int:
        """Number of threads that should each read a tile, on a CPU also predict its latents."""
        count = torch.get_num_threads()
        if not self.is_cpu:
            return count
        return count // THREADS_PER_HELPER if count >= HELPED_THREADS else 0

    @staticmethod
    def use_one_thread() -> None:
        """Sets torch's number of threads, which is per thread: the caller's other threads keep theirs."""
        torch.set_num_threads(1)

    def self_test(self) -> None:
        """Compares the integer network with int64 arithmetic; raises VaecModelError (SELF_TEST)."""
        self.scales.self_test()

    @staticmethod
    def reader(payload: bytes) -> coder.Decoder:
        """Returns a reader of the symbols of a payload."""
        return coder.Decoder(payload)

    @staticmethod
    def write(passes: Sequence[Pass]) -> bytes:
        """Codes symbols to a payload."""
        return coder.encode(passes)

    @staticmethod
    def rdoq(residual: NDArray[np.float32], indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.int32]:
        """Quantizes residuals with RDOQ."""
        return coding.rdoq(residual, indexes, tables)

    def zeros(self, rows: int, columns: int) -> Tensor:
        """Zero latents [M, rows, columns]."""
        size = rows, columns, self.arch.latent_channels
        return torch.zeros(size, dtype=torch.float32, device=self.device).permute(2, 0, 1)

    @staticmethod
    def concat(parts: list[Tensor], axis: int) -> Tensor:
        """Joins neighbouring regions along an axis."""
        return torch.cat(parts, axis)

    @staticmethod
    def to_numpy(array: Tensor) -> NDArray[Any]:
        """Converts a tensor to an array; a view if it is on the CPU."""
        return array.cpu().numpy()

    @staticmethod
    def grey(pixels: Tensor) -> Tensor:
        """The mean [H, W, 1] uint8 of the colours of pixels [H, W, 3], rounded."""
        return ((pixels.sum(2, keepdim=True) + 1) // 3).to(pixels.dtype)

    def table_indexes(
        self, z: Sequence[NDArray[np.int16]], rows: int, columns: int, qualities: Sequence[int],
        channels: int | None = None,
    ) -> NDArray[np.uint8]:  # fmt: skip
        """Table indexes [B, rows columns, C] of tiles with hyper-latents z."""
        found = self.scales.table_indexes(self._to_tensor(z, *hyper_size(rows, columns)), qualities, channels)
        by_place: NDArray[np.uint8] = found[:, :, :rows, :columns].permute(0, 2, 3, 1).flatten().cpu().numpy()
        return by_place.reshape(len(z), rows * columns, -1)

    def analyze(self, pixels: NDArray[np.uint8], quality: int) -> Tensor:
        """Latents y [M, H/16, W/16] of pixels [H, W, 3].

        In bfloat16 where that is faster: only encoders analyze, and rate and PSNR change by less than 0.15 %.
        """
        with self._inference(), torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(self.device)):
            x = torch.tensor(pixels, device=self.device).permute(2, 0, 1)[None].float() / 255
            return self.vae.analysis(x.contiguous(memory_format=torch.channels_last), self._level([quality]))[0]

    def hyper_analyze(self, y: Tensor, quality: int) -> tuple[Tensor, NDArray[np.float32]]:
        """Latents [M, h, w] and hyper-latents [h' w', Z], both in quantizer steps."""
        with self._inference():
            level = self._level([quality])
            rows, columns = (HYPER_STRIDE * n for n in hyper_size(*y.shape[1:]))
            padded = torch.nn.functional.pad(y, (0, columns - y.shape[2], 0, rows - y.shape[1]))
            z = self.vae.hyper_analysis(padded[None]) * torch.exp(self.vae.hyper_gain(level))
            return y * torch.exp(self.vae.latent_gain(level))[0], _positions(z[0])

    def predict(
        self, z: Sequence[NDArray[np.int16]], rows: int, columns: int, qualities: Sequence[int],
        symbols_of_pass: SymbolsOfPass, channels: int, steps: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The first channels [B, C, rows, columns] of dequantized latents."""
        vae, level = self.vae, self._level(qualities)
        is_for_previews = channels < self.arch.latent_channels  # which are approximate anyway
        coarse = is_for_previews and has_fast_bfloat16(self.device)

        def symbols_of(number: int, mean: Tensor, gain: Tensor) -> Tensor:
            residual = None if steps is None else _positions(steps - mean[0] * gain[0])
            return self._to_tensor(symbols_of_pass(number, residual), rows, columns)

        with self._inference(), torch.autocast("cpu", torch.bfloat16, enabled=coarse):
            z_hat = self._to_tensor(z, *hyper_size(rows, columns)) * torch.exp(-vae.hyper_gain(level))
            gain = torch.exp(vae.latent_gain(level))[:, :channels]
            return vae.predict(z_hat, gain, rows, columns, symbols_of)

    def synthesize(
        self, y_hat: Tensor, qualities: Sequence[int], deblocking_cuts: Sequence[int]
    ) -> tuple[Tensor, list[bool]]:
        """Pixels [B, 16 h, 16 w, 3] of latents [B, M, h, w], and for each whether all values are finite."""
        with self._inference():
            share = 1 - torch.tensor(deblocking_cuts, dtype=torch.float32, device=self.device) / CUTS_IN_ALL
            pictures = self.vae.synthesis(*self._restored(y_hat, qualities), share)
            return _pixels_of(pictures), torch.isfinite(pictures.sum((1, 2, 3))).tolist()

    def synthesize_like(
        self, y_hat: Tensor, quality: int, original: NDArray[np.uint8], inside: tuple[slice, slice]
    ) -> tuple[Tensor, int, bool]:
        """Pixels [16 h, 16 w, 3] of latents [M, h, w] with the deblocking cut that fits the original, and the cut."""
        with self._inference():
            before, features = self.vae.synthesis.before_deblocking(*self._restored(y_hat[None], [quality]))
            after = self.vae.synthesis.deblock(before.clone(), features)
            is_finite = bool(torch.isfinite(after.sum()))
            wanted = border_ratio(torch.tensor(original, device=self.device).permute(2, 0, 1).float(), LATENT_STRIDE)
            pixels = _pixels_of(after.clone())[0]
            found = border_ratio(pixels[inside].permute(2, 0, 1).float(), LATENT_STRIDE)
            if not (is_finite and wanted > (1 + TOLERATED) * found):
                return pixels, 0, is_finite
            seen = (0, slice(None), *inside)
            cut = fitting_cut(before[seen], after[seen], wanted / found, LATENT_STRIDE)
            share = torch.tensor([1 - cut / CUTS_IN_ALL], device=self.device)
            return _pixels_of(self.vae.synthesis.deblock(before, features, share))[0], cut, True

    def preview(self, y_hat: Tensor, scale: int) -> Tensor:
        """Pixels [16 h / scale, 16 w / scale, 3] of latents [M, h, w], by a linear map."""
        with self._inference():
            return self.vae.preview(y_hat, scale).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)

    def _restored(self, y_hat: Tensor, qualities: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The inputs of synthesis: latents [B, M, h, w] and levels [B]."""
        level = self._level(qualities)
        y = y_hat * torch.exp(self.vae.latent_restore(level))
        return y.contiguous(memory_format=torch.channels_last), level

    def _to_tensor(self, arrays: Sequence[NDArray[np.int16]], rows: int, columns: int) -> Tensor:
        """Arrays [rows columns, C] as one tensor [B, C, rows, columns] float32, by position in memory."""
        stacked = torch.from_numpy(np.stack(arrays)).to(self.device).to(torch.float32)
        return stacked.view(len(arrays), rows, columns, -1).permute(0, 3, 1, 2)

    def _level(self, qualities: Sequence[int]) -> Tensor:
        return torch.tensor([quality_level(quality) for quality in qualities], dtype=torch.float32, device=self.device)

    def _inference(self) -> AbstractContextManager[None]:
        return full_precision(self.device)


def load(weights: Weights, device: str = "auto") -> TorchEngine:
    """Loads weights on a device.

    Raises:
        VaecModelError: (DEVICE) the device cannot be used, or (SELF_TEST) does not compute integers exactly.
    """
    where = pick_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    vae = empty(weights.arch)
    floats = {name: torch.tensor(values, dtype=torch.float32, device="cpu") for name, values in weights.floats.items()}
    vae.load_state_dict(floats, assign=True)
    vae.eval().requires_grad_(False).to(where, memory_format=torch.channels_last)
    engine = TorchEngine(
        vae, ExactScales(weights.scales, where), hyper_tables=weights.hyper_tables,
        hyper_indexes=weights.hyper_indexes, latent_tables=weights.latent_tables, model_id=weights.model_id,
        device=where, eye=weights.eye, restores=weights.restores,
    )  # fmt: skip
    engine.self_test()
    return engine


def empty(arch: Architecture) -> Vae:
    """The network on the meta device: needs no memory, and uses neither the caller's generator nor default dtype."""
    with torch.device("meta"):
        return Vae(arch)


def _pixels_of(pictures: Tensor) -> Tensor:
    """Pixels [B, H, W, 3] uint8 of pictures [B, 3, H, W] in 0..1, which are overwritten."""
    planes = pictures.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    return torch.stack(planes.unbind(1), 3)  # in memory, the colours of a pixel are contiguous


def _positions(latents: Tensor) -> NDArray[np.float32]:
    """Latents [C, h, w] as [h w, C]."""
    array: NDArray[np.float32] = latents.permute(1, 2, 0).flatten(0, 1).cpu().numpy()
    return array
