"""A hundred ways of computing the scale network wrongly, as a faulty build, kernel, driver or setting may."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vaecodec.model.torch_engine.engine import ExactScales

LAYERS = range(4)

Change = Callable[[Tensor], Tensor]


class Build(NamedTuple):
    """A fault, and what puts it into a scale network that is made for this."""

    name: str
    alter: Callable[[ExactScales], None]


def builds() -> list[Build]:
    """All of them."""
    return [*_coarse_sums(), *_wrong_outputs(), *_coarse_products(), *_divisions(), *_structures(), *_copies()]


# --- how a fault is put in --------------------------------------------------------------------------------------------


def _of_sums(change: Change, scales: ExactScales, layer: int | None = None) -> None:
    """Changes the sums of one layer, or of all."""
    sums = scales.sums
    scales.sums = lambda number, *rest: change(sums(number, *rest)) if layer in (None, number) else sums(number, *rest)


def _of_width(change: Callable[[Tensor, int], Tensor], fewer: int, scales: ExactScales) -> None:
    """Gives the sums of every layer so many bits less than its largest sum needs."""
    sums, bounds = scales.sums, scales.stored.prove_exact()
    scales.sums = lambda number, *rest: change(sums(number, *rest), bounds[number].bit_length() - fewer)


def _of_products(
    scales: ExactScales, *, of_x: Change | None = None, of_weight: Change | None = None, layer: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> None:  # fmt: skip
    """Changes what goes into the sums of one layer, or of all."""
    sums = scales.sums

    def altered(number: int, x: Tensor, outputs: int | None = None) -> Tensor:
        if layer not in (None, number):
            return sums(number, x, outputs)
        weight, bias = scales._weights[number][:outputs], scales._biases[number][:outputs]
        x, weight = of_x(x) if of_x else x, of_weight(weight) if of_weight else weight
        found = F.conv2d(x.to(dtype), weight.to(dtype), bias.to(dtype), padding=weight.shape[-1] // 2)
        return torch.round(found.double())

    scales.sums = altered


def _of_division(divide: Callable[[Tensor, int], Tensor], scales: ExactScales) -> None:
    scales._shift = divide


# --- the faults -------------------------------------------------------------------------------------------------------


def _coarse_sums() -> list[Build]:
    """Accumulators of too few bits."""
    found = [Build(f"sums lose {bits} low bits", partial(_of_sums, partial(_drop, bits=bits))) for bits in range(1, 9)]
    found += [
        Build(f"sums of layer {n} lose a bit", partial(_of_sums, partial(_drop, bits=1), layer=n)) for n in LAYERS
    ]
    for bits in (8, 11, 16, 20, 24):
        found.append(Build(f"sums of {bits} significant bits", partial(_of_sums, partial(_significant, bits=bits))))
    for fewer in (3, 5, 7, 9):
        found.append(Build(f"sums of {fewer} significant bits too few", partial(_of_width, _significant, fewer)))
    for n in LAYERS:
        found.append(Build(f"sums of layer {n} as float32", partial(_of_sums, lambda t: t.float().double(), layer=n)))
    for name, change in (("stop", _stop), ("wrap around", _wrap)):
        for fewer in (2, 6):
            found.append(Build(f"sums {name} {fewer} bits too early", partial(_of_width, change, fewer)))
    found.append(Build("sums wrap around 10 bits too early", partial(_of_width, _wrap, 10)))
    for power in (16, 20, 24):
        change = partial(torch.mul, other=1 + 2.0**-power)
        found.append(Build(f"sums too large by 2^-{power}", partial(_of_sums, change)))
    found.append(Build("largest sums too large by a few", partial(_of_width, _enlarge, 4)))
    return found


def _wrong_outputs() -> list[Build]:
    """One output wrong by one, at the first, a middle or the last place; or only at some sizes."""
    found = []
    for layer in LAYERS:
        for name, place in (("first", 0.0), ("middle", 0.5), ("last", 1.0)):
            for step in (-1, 1):
                change = partial(_add_at, place=place, step=step)
                found.append(Build(f"{name} output of layer {layer} {step:+}", partial(_of_sums, change, layer=layer)))
    found.append(Build("wide inputs +1", partial(_of_sums, lambda t: t + 1 if t.shape[-1] >= 16 else t)))
    found.append(Build("narrow inputs +1", partial(_of_sums, lambda t: t + 1 if t.shape[-1] < 16 else t)))
    return found


def _coarse_products() -> list[Build]:
    """Factors of too few bits: TF32 and float16 keep 11, bfloat16 keeps 8."""
    found = []
    for bits in (4, 8, 11):
        coarse = partial(_significant, bits=bits)
        found.append(Build(f"inputs of {bits} bits", partial(_of_products, of_x=coarse)))
        found.append(Build(f"weights of {bits} bits", partial(_of_products, of_weight=coarse)))
    for bits in (8, 11):
        coarse = partial(_significant, bits=bits)
        found.append(Build(f"factors of {bits} bits", partial(_of_products, of_x=coarse, of_weight=coarse)))
    for n in LAYERS:
        coarse = partial(_significant, bits=8)
        found.append(Build(f"weights of layer {n} of 8 bits", partial(_of_products, of_weight=coarse, layer=n)))
    found.append(Build("float32 throughout", partial(_of_products, dtype=torch.float32)))
    found.append(Build("bfloat16 throughout", partial(_of_products, dtype=torch.bfloat16)))
    return found


def _divisions() -> list[Build]:
    """Other roundings of the division by a power of two."""
    ways: dict[str, Callable[[Tensor, int], Tensor]] = {
        "down": lambda x, bits: torch.floor(x * 2.0**-bits),
        "up": lambda x, bits: torch.ceil(x * 2.0**-bits),
        "towards zero": lambda x, bits: torch.trunc((x + 2 ** (bits - 1)) * 2.0**-bits),
        "half to even": lambda x, bits: torch.round(x * 2.0**-bits),
        "half down": lambda x, bits: torch.ceil(x * 2.0**-bits - 0.5),
        "by twice as much": lambda x, bits: torch.floor((x + 2 ** (bits - 1)) * 2.0 ** -(bits + 1)),
        "in float32": lambda x, bits: torch.floor((x.float() + 2 ** (bits - 1)) * 2.0**-bits).double(),
    }
    return [Build(f"division {name}", partial(_of_division, way)) for name, way in ways.items()]


def _structures() -> list[Build]:
    """Other places, other borders, other biases."""
    outputs: dict[str, Change] = {
        "height and width of sums exchanged": lambda t: t.transpose(2, 3),
        "last column of sums empty": lambda t: torch.cat([t[..., :-1], torch.zeros_like(t[..., -1:])], 3),
        "first two channels of sums exchanged": lambda t: torch.cat([t[:, 1:2], t[:, :1], t[:, 2:]], 1),
        "a channel of sums empty": lambda t: torch.cat([t[:, :-1], torch.zeros_like(t[:, -1:])], 1),
        "a sum that is no number": partial(_add_at, place=0.3, step=float("nan")),
        "a sum that is infinite": partial(_add_at, place=0.3, step=float("inf")),
    }
    found = [Build(name, partial(_of_sums, change)) for name, change in outputs.items()]
    found.append(Build("kernels mirrored", partial(_of_products, of_weight=lambda w: w.flip(2, 3))))
    found.append(Build("input channels rolled", partial(_of_products, of_x=lambda x: x.roll(1, 1))))
    for mode in ("replicate", "circular"):
        found.append(Build(f"{mode} borders", partial(_with_borders, mode)))
    for name, factor in (("without biases", 0), ("biases twice", 2)):
        found.append(Build(name, partial(_scale_biases, factor)))
    return found


def _copies() -> list[Build]:
    """Integers that did not arrive on the device as they are stored."""
    found = [
        Build(f"a weight of layer {n} +1", lambda scales, n=n: _bump(scales._weights[n], (-1, 0, 0, 0))) for n in LAYERS
    ]
    found.append(Build("a bias +1", lambda scales: _bump(scales._biases[0], (3,))))
    found.append(Build("a dequantization +1", lambda scales: _bump(scales._dequantize, (36, 5))))
    found.append(Build("a row offset +1", lambda scales: _bump(scales._row_offset, (73, 9))))
    return found


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _drop(sums: Tensor, bits: int) -> Tensor:
    return torch.floor(sums * 2.0**-bits) * 2.0**bits


def _significant(values: Tensor, bits: int) -> Tensor:
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 2.0**bits) * 2.0**-bits, exponent)


def _stop(sums: Tensor, bits: int) -> Tensor:
    return sums.clamp(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)


def _wrap(sums: Tensor, bits: int) -> Tensor:
    half = 1 << (bits - 1)
    return ((sums.long() + half) % (2 * half) - half).double()


def _enlarge(sums: Tensor, bits: int) -> Tensor:
    return sums * (1 + 2.0**-bits)


def _add_at(sums: Tensor, place: float, step: float) -> Tensor:
    flat = sums.flatten().clone()
    flat[int(place * (len(flat) - 1))] += step
    return flat.reshape(sums.shape)


def _with_borders(mode: str, scales: ExactScales) -> None:
    def altered(number: int, x: Tensor, outputs: int | None = None) -> Tensor:
        weight, bias = scales._weights[number][:outputs], scales._biases[number][:outputs]
        reach = weight.shape[-1] // 2
        return torch.round(F.conv2d(F.pad(x, (reach,) * 4, mode), weight, bias))

    scales.sums = altered


def _scale_biases(factor: int, scales: ExactScales) -> None:
    scales._biases = [bias * factor for bias in scales._biases]


def _bump(tensor: Tensor, place: tuple[int, ...]) -> None:
    tensor[place] += 1
