"""The short form of fuzzing (tests/fuzz, `make fuzz` is the long one): thousands of damaged and hostile files a run."""

import io
import random
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fuzz import campaign, forge, seeds
from fuzz.campaign import Bench
from fuzz.laws import PICTURE, BrokenLawError, Judge
from fuzz.mutators import FORGED, SEALED, UNSEALED, Mutant, mutants
from fuzz.parts import LEARNED, Parts, assemble, claim, reseal, sound_entry
from fuzz.targets import TARGETS
from PIL import Image, ImageFile

from vaecodec import Codec
from vaecodec.cli import main
from vaecodec.entropy import coder
from vaecodec.entropy.tables import SENTINEL
from vaecodec.errors import VaecError
from vaecodec.format import container, records
from vaecodec.format.records import Tile
from vaecodec.model import coding
from vaecodec.model.coding import Symbols
from vaecodec.model.engine import Engine

HERE = Path(__file__).parent / "fuzz"
MAX_PIXELS = 2**15


@pytest.fixture(scope="module")
def originals(shipped: Codec) -> dict[str, Parts]:
    """The files that mutants are made of."""
    return seeds.seeds(shipped)


@pytest.fixture(scope="module")
def corpus(originals: dict[str, Parts], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of folders that atheris starts from."""
    folder = tmp_path_factory.mktemp("corpus")
    seeds.write_corpus(folder, originals)
    return folder


@pytest.fixture
def bench(shipped: Codec, originals: dict[str, Parts], tmp_path: Path) -> Bench:
    """A bench that keeps offenders in the test's own folder, and lets them take ten times as long as `make fuzz`."""
    Image.open(io.BytesIO(originals["learned"].data)).load()  # weights of its own, which no mutant is to blame for
    return Bench(shipped, originals, tmp_path, patience=10)


@pytest.fixture
def judge(shipped: Codec, originals: dict[str, Parts]) -> Judge:
    """A judge over the shipped codec."""
    return Judge(shipped, originals.values(), max_pixels=MAX_PIXELS)


# --- the laws hold ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_flipped_bit_and_every_cut_is_refused(bench: Bench) -> None:
    """Of twenty-five small files, none that differs in one bit, and no beginning, is ever shown as a picture."""
    result = bench.every_flip_and_cut()
    file_bytes = sum(len(parts.data) for parts in bench.seeds.values())
    assert (len(bench.seeds), result.mutants, result.broken) == (25, 9 * file_bytes, [])
    assert PICTURE not in result.outcomes


@pytest.mark.slow
def test_mutants_are_refused_or_consistent(bench: Bench) -> None:
    """Whatever is done to a file, decoding keeps the laws, and its time and memory; partially and in Pillow, too."""
    results = bench.decode(700, seed=2)
    assert {name: result.broken for name, result in results.items()} == {"decode": [], "partial": [], "plugin": []}
    outcomes = results["decode"].outcomes
    assert {
        "CODER_END",
        "LATENT_CRC",
        "ZLIB",
        "WEBP",
        "SAMPLES_CRC",
        "CORRECTION_CRC",
        "META",
        "TILE_LEN",
        PICTURE,
    } <= outcomes.keys()
    assert 0.4 < results["decode"].sealed / results["decode"].mutants < 0.6


def test_mutants_break_no_reader(bench: Bench) -> None:
    """Reading without decoding: nothing but VaecError, strict, partial and header-only reading agree, and soon."""
    result = bench.parse(20_000, seed=1)
    assert result.broken == []
    assert len(result.outcomes) >= 18


@pytest.mark.slow
def test_other_readers_raise_nothing_else(
    shipped: Codec, originals: dict[str, Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Analysis of files, and Pillow told to load what is left of damaged ones: VaecError, or Pillow's OSError."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for mutant in mutants(random.Random(4), tuple(originals.values()), 100):
        if len(mutant.data) >= 32 and claim(mutant.data).height * claim(mutant.data).width > MAX_PIXELS:
            continue
        for read in (shipped.explore.features_from_bytes, shipped.explore.rate_map_from_bytes):
            with suppress(VaecError):
                read(mutant.data)
                assert mutant.is_sealed
        with warnings.catch_warnings(record=True) as heard, suppress(OSError):
            warnings.simplefilter("always")
            Image.open(io.BytesIO(mutant.data), formats=("VAEC",)).load()
            assert heard or mutant.is_sealed


def test_commands_refuse_mutants_with_a_code(shipped: Codec, originals: dict[str, Parts], tmp_path: Path) -> None:
    """Exit code 4, 5 or 6, a sentence with the error's code, and no output; never an internal error."""
    path = tmp_path / "in.vaec"
    damaged = (m for m in mutants(random.Random(6), tuple(originals.values()), 60) if not m.is_sealed)
    for mutant in damaged:
        path.write_bytes(mutant.data)
        for arguments in (["info"], ["verify"], ["decode", "-o", str(tmp_path / "out.png")]):
            done = CliRunner().invoke(main, [*arguments, str(path)])
            assert done.exit_code in (4, 5, 6) or arguments == ["info"], (mutant, done.output)
            assert "INTERNAL" not in done.output
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", TARGETS)
def test_targets_keep_the_laws_around_their_corpus(name: str, corpus: Path) -> None:
    """What atheris starts from, and a few steps from there, breaks no law."""
    files = [path.read_bytes() for path in sorted((corpus / name).iterdir())]
    assert len(files) >= 20
    rng = random.Random(2)
    for data in files:
        TARGETS[name](data)
        for _ in range(2):
            changed = bytearray(data)
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            TARGETS[name](bytes(changed[: rng.choice((len(data), rng.randrange(len(data) + 1)))]))


@pytest.mark.parametrize("style", forge.STYLES)
def test_forged_latents_give_a_picture_or_an_error(
    style: str, shipped: Codec, judge: Judge, originals: dict[str, Parts]
) -> None:
    """Every CRC right, the symbols at their limits: finite pixels of the claimed size, at any quality."""
    for quality in (1, 50, 100):
        payload, crc = forge.learned_payload(
            shipped.engine, (2, 2), quality=quality, style=style, rng=np.random.default_rng(3)
        )
        entries = (sound_entry(LEARNED, payload, crc),)
        data = reseal(assemble(originals["learned"], header={"quality": quality}, entries=entries))
        assert judge.decode(Mutant(data, FORGED, True)) in (PICTURE, "NONFINITE", "TILE_LEN")


def test_a_resealed_payload_is_refused_by_the_coder_or_the_latents(shipped: Codec, originals: dict[str, Parts]) -> None:
    """With the payload's CRC computed anew and the content's left alone, every flipped bit of a payload is seen."""
    parts = originals["learned"]
    (entry,) = parts.entries
    codes = set()
    for bit in range(0, 8 * len(entry.payload), 31):
        payload = bytearray(entry.payload)
        payload[bit // 8] ^= 1 << bit % 8
        data = reseal(assemble(parts, entries=(entry._replace(payload=bytes(payload)),)))
        with pytest.raises(VaecError) as caught:
            shipped.decode(data)
        codes.add(caught.value.code)
    assert codes <= {"CODER_END", "ESCAPE_RANGE", "CODER_STATE", "LATENT_CRC"}


# What once broke a law, and what must come of it now: the code of the error, or a picture.
REGRESSIONS = {
    "bomb.vaec": "MAX_PIXELS",  # `verify --deep` decoded it, and so did a `load` behind whose back it replaced a file
    "exif-no-tiff.vaec": PICTURE,  # `decode --auto-orient` failed with Pillow's SyntaxError
}


def test_regressions_are_the_files_there_are() -> None:
    """A file that is kept is tested."""
    assert {path.name for path in (HERE / "regressions").iterdir()} == REGRESSIONS.keys()


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize("command", [["verify", "--deep"], ["decode", "--auto-orient", "-o", "{folder}/out.png"]])
def test_a_mended_fault_stays_mended(name: str, command: list[str], shipped: Codec, tmp_path: Path) -> None:
    """Files that once broke a law come to what they should, in the command line, too."""
    path = HERE / "regressions" / name
    outcome = Judge(shipped, (), max_pixels=MAX_PIXELS).decode(Mutant(path.read_bytes(), FORGED, True))
    arguments = [*(part.format(folder=tmp_path) for part in command), str(path)]
    done = CliRunner().invoke(main, arguments)
    assert outcome == REGRESSIONS[name]
    assert (done.exit_code == 0) == (outcome == PICTURE)
    assert outcome == PICTURE or outcome in done.stderr


# --- the laws can be broken -------------------------------------------------------------------------------------------


def skip_crcs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "check_crc", lambda *args, **options: None)


def skip_latent_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_symbols(
        engine: Engine, tiles: Sequence[Tile], size: tuple[int, int], qualities: Sequence[int], **options: bool
    ) -> list[Symbols]:
        return coding.read(engine, *size, qualities, [coder.Decoder(tile.payload).read for tile in tiles], **options)

    monkeypatch.setattr("vaecodec.tiling.decode.read_symbols", read_symbols)


def crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaecodec.tiling.tile._Reader.end", lambda self, symbols: [][0])


def lose_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Codec.decode
    monkeypatch.setattr(Codec, "decode", lambda self, *args, **options: decode(self, *args, **options)[1:])


@pytest.mark.parametrize(
    ("sabotage", "fault"),
    [
        (skip_crcs, "a damaged file was shown as a picture"),
        (skip_latent_checks, "learned tile 0 was written by no encoder"),
        (crash, "IndexError"),
        (lose_a_row, "must be"),
    ],
)
def test_a_worse_decoder_is_caught(
    shipped: Codec,
    originals: dict[str, Parts],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[[pytest.MonkeyPatch], None],
    fault: str,
) -> None:
    """A decoder that skips a check, crashes or gives another size breaks a law within a few mutants, which are kept."""
    bench = Bench(shipped, {name: originals[name] for name in ("learned", "solid")}, tmp_path)
    monkeypatch.setattr(bench, "photo_ms", lambda claimed: 1e3)  # the worse decoder could not tell
    sabotage(monkeypatch)
    results = bench.decode(150)
    assert any(fault in line for line in results["decode"].broken)
    broken = [line for result in results.values() for line in result.broken]
    assert {path.name for path in tmp_path.iterdir()} == {line.partition(":")[0] for line in broken}


def test_a_slow_decoder_is_caught(bench: Bench, originals: dict[str, Parts], monkeypatch: pytest.MonkeyPatch) -> None:
    """More time than 1.5 photographs and 50 ms is noticed, even for a file that is refused."""

    def dawdle(*args: object, **options: object) -> None:
        end = time.thread_time() + 0.06
        while time.thread_time() < end:
            pass
        raise VaecError("too late")

    monkeypatch.setattr(bench, "patience", 1)
    monkeypatch.setattr(bench, "photo_ms", lambda claimed: 1.0)
    monkeypatch.setattr(Codec, "decode", dawdle)
    result = campaign.Result()
    bench._try(result, Mutant(originals["solid"].data[:-1], "truncate", False), bench.judge.decode)
    assert [line.partition(" took ")[2].partition(" ms, ")[2] for line in result.broken] == ["must take 52 ms at most"]


def test_a_wasteful_decoder_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory beyond that of the photographs before, and 64 MiB, is noticed."""
    monkeypatch.setattr(campaign, "_peak_mib", lambda: bench.before_mib + 65)
    assert bench.parse(0).broken == ["memory grew by 65 MiB, must by 64 at most"]


def test_law_of_consistent_samples_can_be_broken(judge: Judge, originals: dict[str, Parts]) -> None:
    """A picture whose lossless samples are not those of its CRC is noticed."""
    mutant = Mutant(originals["packed"].data, "flip_bits", True)
    assert judge.decode(mutant) == PICTURE
    with pytest.raises(BrokenLawError, match="samples of tile 0"):
        judge._check_content(mutant, np.zeros((8, 8, 3), np.uint8))


# --- the tools --------------------------------------------------------------------------------------------------------


def test_seeds_are_of_all_kinds(originals: dict[str, Parts]) -> None:
    """Assembling and sealing a second time changes nothing: this reading of docs/format.md is the package's own."""
    for parts in originals.values():
        assert assemble(parts) == reseal(parts.data) == parts.data
    assert {parts.header["pixel_format"] for parts in originals.values()} == {0, 1, 2, 3}
    assert max(len(parts.data) for parts in originals.values()) < 2000


def test_mutants_are_repeatable_and_all_kinds_are_drawn(originals: dict[str, Parts]) -> None:
    """The same number gives the same mutants; none equals a seed; each mutator has its turn, sealed or not."""
    files = tuple(originals.values())
    drawn = list(mutants(random.Random(5), files, 2000))
    assert drawn == list(mutants(random.Random(5), files, 2000))
    assert not {mutant.data for mutant in drawn} & {parts.data for parts in files}
    assert {m.kind for m in drawn if m.is_sealed} == {mutator.__name__ for mutator in SEALED}
    assert {m.kind for m in drawn if not m.is_sealed} == {mutator.__name__ for mutator in UNSEALED}


def test_dictionary_is_of_this_format() -> None:
    """Every line is one word in libFuzzer's syntax, and the words of the format are among them."""
    lines = [line for line in (HERE / "vaec.dict").read_text().splitlines() if not line.startswith("#")]
    words = {}
    for line in lines:
        name, _, value = line.partition("=")
        assert name.isidentifier(), line
        assert value[0] == value[-1] == '"', line
        words[name] = value[1:-1].encode().decode("unicode_escape").encode("latin-1")
    assert records.MAGIC in words.values()
    assert set(records.CHUNK_TYPES) <= set(words.values())
    assert SENTINEL.to_bytes(4, "little") in words.values()
