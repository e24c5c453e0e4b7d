"""Mutants of small files: accidents of storage and transport, and what an attacker would try first."""

import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from fuzz.parts import (
    CORRECTED,
    CORRECTION,
    LENGTH_MASK,
    SOLID,
    WEBP,
    ZLIB,
    Chunk,
    Entry,
    Parts,
    assemble,
    reseal,
    sound_chunk,
    sound_entry,
)

EXTREMES = (0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 255, 256, 257, 2**12, 2**16 - 1, 2**16, 2**18, 2**18 + 1, 2**28 - 1,
            2**28, 2**31 - 1, 2**31, 2**32 - 1)  # fmt: skip
CHUNK_KINDS = (b"ICCP", b"EXIF", b"XMP_", b"OWN1", b"\0\0\0\0", b"exif")
_FIELD_LIMITS = {"version": 255, "flags_incompat": 255, "flags_compat": 255, "pixel_format": 255, "quality": 255,
                 "tile_log2": 255, "reserved": 255, "deblocking_cut": 255}  # fmt: skip

FORGED = "forge"
"""The kind of a mutant whose content may be anything that is consistent in itself."""

Mutator = Callable[[random.Random, Parts, Parts], bytes]


class Mutant(NamedTuple):
    """A file to try.

    Attributes:
        data: the file.
        kind: the name of the mutator that made it.
        is_sealed: whether its CRCs were computed anew, so that it comes as far as what they protect.
    """

    data: bytes
    kind: str
    is_sealed: bool


# --- any bytes --------------------------------------------------------------------------------------------------------


def flip_bits(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """One to eight flipped bits."""
    changed = bytearray(seed.data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """A run of bytes with one extreme value or random ones."""
    changed = bytearray(seed.data)
    at = rng.randrange(len(changed))
    count = min(rng.choice((1, 1, 2, 4, 16)), len(changed) - at)
    changed[at : at + count] = rng.choice((b"\0" * count, b"\xff" * count, rng.randbytes(count)))
    return bytes(changed)


def set_number(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """An extreme 32-bit number, mostly where one stands."""
    changed = bytearray(seed.data)
    at = rng.randrange(len(changed) - 3)
    struct.pack_into("<I", changed, at // 4 * 4 if rng.random() < 0.8 else at, rng.choice(EXTREMES))
    return bytes(changed)


def truncate(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """The beginning of a file."""
    return seed.data[: rng.randrange(len(seed.data))]


def delete(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """A file without some of its bytes."""
    at = rng.randrange(len(seed.data))
    return seed.data[:at] + seed.data[at + rng.randint(1, 16) :]


def insert(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """A file with bytes that do not belong to it, some of them its own, some at its end."""
    at = rng.choice((len(seed.data), rng.randrange(len(seed.data))))
    start = rng.randrange(len(seed.data))
    extra = rng.choice((rng.randbytes(rng.randint(1, 20)), seed.data[start : start + rng.randint(1, 64)]))
    return seed.data[:at] + extra + seed.data[at:]


def exchange(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """A file with two stretches of equal length exchanged, as blocks of a disk are."""
    size = rng.choice((1, 4, 12, 16))
    if len(seed.data) < 2 * size:
        return b""
    first = rng.randrange(len(seed.data) - 2 * size + 1)
    second = rng.randrange(first + size, len(seed.data) - size + 1)
    data = seed.data
    return (
        data[:first] + data[second : second + size] + data[first + size : second] + data[first : first + size]
        + data[second + size :]
    )  # fmt: skip


def splice(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """The beginning of one file and the end of another."""
    at = rng.randrange(len(seed.data))
    same_place = min(at, len(other.data))
    return seed.data[:at] + other.data[rng.choice((same_place, rng.randrange(len(other.data)))) :]


# --- fields -----------------------------------------------------------------------------------------------------------


def extreme_header(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """One or two fields of the header with extreme, near or foreign values."""
    changed: dict[str, int | bytes] = {}
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(tuple(seed.header))
        value = rng.choice((seed.header[name], other.header[name]))
        if isinstance(value, int):
            near = max(0, value + rng.choice((-16, -2, -1, 1, 2, 16)))
            value = min(rng.choice((value, near, rng.choice(EXTREMES))), _FIELD_LIMITS.get(name, 2**32 - 1))
        elif rng.random() < 0.5:
            value = rng.randbytes(4)
        changed[name] = value
    return assemble(seed, header=changed)


def extreme_entry(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """One field of a tile's record with an extreme or a near value: mode, length or content CRC."""
    number = rng.randrange(len(seed.entries))
    entry = seed.entries[number]
    length = entry.mode_length & LENGTH_MASK
    kind = rng.randrange(4)
    if kind == 0:
        entry = entry._replace(mode_length=rng.randrange(16) << 28 | length)
    elif kind == 1:
        entry = entry._replace(mode_length=entry.mode << 28 | rng.choice(EXTREMES) & LENGTH_MASK)
    elif kind == 2:
        near = max(0, length + rng.choice((-12, -4, -1, 1, 4, 12)))
        entry = entry._replace(mode_length=entry.mode << 28 | near)
    else:
        entry = entry._replace(content_crc=rng.choice((0, rng.getrandbits(32), entry.content_crc ^ 1)))
    return assemble(seed, entries=_with(seed.entries, number, entry))


# --- tiles ------------------------------------------------------------------------------------------------------------


def swap_tiles(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """Two tiles exchanged: whole, or only their records, payloads or content CRCs."""
    if len(seed.entries) < 2:
        return b""
    first, second = rng.sample(range(len(seed.entries)), 2)
    a, b = seed.entries[first], seed.entries[second]
    kind = rng.randrange(4)
    if kind == 1:
        a, b = Entry(*a[:3], b.payload), Entry(*b[:3], a.payload)
    elif kind == 2:
        a, b = Entry(*a[:3], b.payload)._replace(content_crc=b.content_crc), b
    elif kind == 3:
        a, b = a._replace(content_crc=b.content_crc), b._replace(content_crc=a.content_crc)
    return assemble(seed, entries=_with(_with(seed.entries, first, b), second, a))


def transplant(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """A tile of another file, or a second copy of one of its own, in place of a tile."""
    number = rng.randrange(len(seed.entries))
    donor = rng.choice(rng.choice((seed, other)).entries)
    return assemble(seed, entries=_with(seed.entries, number, donor))


def drop_tile(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """A file with one tile less or one more than its size stands for."""
    number = rng.randrange(len(seed.entries))
    fewer = seed.entries[:number] + seed.entries[number + 1 :]
    more = (*seed.entries[:number], rng.choice(other.entries), *seed.entries[number:])
    return assemble(seed, entries=rng.choice((fewer, more)))


def payload_words(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """Words of a payload set, exchanged, added or removed."""
    number = rng.randrange(len(seed.entries))
    entry = seed.entries[number]
    words = [entry.payload[i : i + 4] for i in range(0, len(entry.payload), 4)]
    at, to = rng.randrange(len(words)), rng.randrange(len(words))
    kind = rng.randrange(5)
    if kind == 0:
        words[at] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"VAE\x01", rng.randbytes(4)))
    elif kind == 1:
        words[at], words[to] = words[to], words[at]
    elif kind == 2:
        words.insert(at, rng.choice((words[to], rng.randbytes(4))))
    elif kind == 3:
        del words[at]
    else:
        changed = bytearray(entry.payload)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        words = [bytes(changed)]
    return assemble(seed, entries=_with(seed.entries, number, _same_content(entry, b"".join(words))))


def repack(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """A zlib or solid tile with another filter byte, stream, length of stream, or with something behind it."""
    plain = [n for n, entry in enumerate(seed.entries) if entry.mode in (ZLIB, SOLID)]
    if not plain:
        return b""
    number = rng.choice(plain)
    entry = seed.entries[number]
    residual = zlib.decompress(entry.payload[1:]) if entry.mode == ZLIB else entry.payload * 9
    start = rng.randrange(len(residual))
    residual = rng.choice((residual, residual[start:], residual + b"\0", residual * 40, rng.randbytes(len(residual))))
    deflater = zlib.compressobj(rng.randrange(10), zlib.DEFLATED, rng.choice((9, 15, -15, 31)))
    stream = deflater.compress(residual) + deflater.flush(rng.choice((zlib.Z_FINISH, zlib.Z_SYNC_FLUSH)))
    filter_byte = bytes([rng.choice((entry.payload[0], rng.randrange(9), 255))])
    behind = rng.choice((b"", b"", stream, rng.randbytes(3)))
    return assemble(
        seed, entries=_with(seed.entries, number, _same_content(entry, filter_byte + stream + behind, ZLIB))
    )


def recorrect(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """A WebP tile or a correction with another chunk, length, size or end; a correction with another head, too."""
    places = [n for n, entry in enumerate(seed.entries) if entry.mode in (WEBP, CORRECTED)]
    if not places:
        return b""
    number = rng.choice(places)
    entry = seed.entries[number]
    start = 0
    if entry.mode == CORRECTED:
        start = CORRECTION.size + CORRECTION.unpack_from(entry.payload)[0]
    head, webp = bytearray(entry.payload[:start]), bytearray(entry.payload[start:])
    if head and rng.random() < 0.3:
        head[rng.choice((0, 1, 4, 8))] = rng.choice((0, 1, 2, 255, rng.randrange(256)))
    kind = rng.randrange(5)
    if kind == 0:
        webp[12:16] = rng.choice((b"VP8 ", b"VP8X", b"ANIM"))
    elif kind == 1:
        at = rng.choice((4, 16, 21))
        struct.pack_into("<I", webp, at, rng.choice((*EXTREMES, struct.unpack_from("<I", webp, at)[0] ^ 1)) % 2**32)
    elif kind == 2:
        webp += rng.randbytes(rng.randrange(1, 9))
    elif kind == 3:
        del webp[rng.randrange(len(webp)) :]
    else:
        webp[rng.randrange(21, len(webp))] ^= 1 << rng.randrange(8)
    return assemble(seed, entries=_with(seed.entries, number, _same_content(entry, bytes(head + webp))))


# --- metadata ---------------------------------------------------------------------------------------------------------


def chunk_list(rng: random.Random, seed: Parts, other: Parts) -> bytes:
    """Chunks of metadata twice, in another order, of other types and lengths, or too many."""
    kinds = [rng.choice(CHUNK_KINDS) for _ in range(rng.choice((0, 1, 1, 2, 3, 17)))]
    new = [sound_chunk(kind, rng.randbytes(rng.choice((0, 1, 40)))) for kind in kinds]
    chunks = [*seed.chunks, *new, *rng.choices(other.chunks or seed.chunks or new or [Chunk(b"XMP_", 0, 0, b"")])]
    rng.shuffle(chunks)
    if rng.random() < 0.3:
        chunks[0] = chunks[0]._replace(length=rng.choice(EXTREMES))
    flags = {"flags_compat": rng.choice((1, 1, 1, 0, 0xFF))}
    return assemble(seed, header=flags, chunks=tuple(chunks))


RAW: tuple[Mutator, ...] = (flip_bits, set_bytes, set_number, truncate, delete, insert, exchange, splice)
STRUCTURED: tuple[Mutator, ...] = (
    extreme_header, extreme_entry, swap_tiles, transplant, drop_tile, payload_words, repack, recorrect,
)  # fmt: skip
# What is drawn from, with and without new CRCs. Chunks carry CRCs of their own and may stand in any order, so that
# exchanging whole ones damages nothing; and of what is sealed, as much as possible should come as far as the coders.
UNSEALED = (*RAW, *RAW, *STRUCTURED)
SEALED = (*RAW, *STRUCTURED, *3 * (swap_tiles, transplant, payload_words, payload_words, repack, recorrect), chunk_list)


def mutants(rng: random.Random, seeds: Sequence[Parts], count: int) -> Iterator[Mutant]:
    """Makes mutants that differ from every seed, about half of them sealed.

    Args:
        rng: decides everything.
        seeds: what they are made of.
        count: how many.
    """
    originals = {parts.data for parts in seeds}
    made = 0
    while made < count:
        is_sealed = rng.random() < 0.5
        mutator = rng.choice(SEALED if is_sealed else UNSEALED)
        data = mutator(rng, rng.choice(seeds), rng.choice(seeds))
        if is_sealed:
            data = reseal(data, lengthens=rng.random() < 0.9)
        if data and data not in originals:
            made += 1
            yield Mutant(data, mutator.__name__, is_sealed)


def flips(data: bytes) -> Iterator[bytes]:
    """All files that differ from a file in one bit."""
    changed = bytearray(data)
    for bit in range(8 * len(data)):
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)
        changed[bit // 8] ^= 1 << bit % 8


def truncations(data: bytes) -> Iterator[bytes]:
    """All beginnings of a file, from no byte to all but one."""
    return (data[:end] for end in range(len(data)))


def _with(entries: tuple[Entry, ...], number: int, entry: Entry) -> tuple[Entry, ...]:
    return (*entries[:number], entry, *entries[number + 1 :])


def _same_content(entry: Entry, payload: bytes, mode: int | None = None) -> Entry:
    """The entry with another payload of the right length and CRC, and the content CRC that it had."""
    return sound_entry(entry.mode if mode is None else mode, payload, entry.content_crc)
