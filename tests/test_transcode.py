"""Many pictures to .vaec files in one process: nothing is lost, nothing is done twice, everything is told."""

import dataclasses
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vaecodec import Codec, VaecModelError
from vaecodec.cli import main
from vaecodec.cli.pictures import is_picture_name
from vaecodec.cli.transcoding import cluster, manifest
from vaecodec.cli.transcoding.manifest import Manifest, ManifestError
from vaecodec.cli.transcoding.places import Place, PlaceError, open_place
from vaecodec.cli.transcoding.run import Plan, TargetTakenError, plan, run
from vaecodec.cli.transcoding.worker import Job, Transcoder, Work
from vaecodec.pictures import fidelity, pixels

NAMES = ("a.png", "b/a.jpg", "b/c d.webp", "é.png")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four pictures in a tree, and files that are none."""
    folder = tmp_path / "source"
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(40, 56, seed=number)).save(folder / name)
    for name in (".hidden.png", "notes.txt", ".cache/c.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no picture")
    return folder


@pytest.fixture
def work(source: Path, tmp_path: Path, tiny: Codec) -> Work:
    """From `source` to an empty folder with the tiny weights."""
    places = open_place(str(source)), open_place(str(tmp_path / "target"))
    return Work(*places, 60, str(tiny.model), tiny.engine.model_id.hex(), "cpu", 10**6)


def transcoded(work: Work) -> list[dict[str, Any]]:
    """The records of a whole run in this process."""
    planned = plan(work, is_picture_name)
    return list(run(planned, work.target, map(Transcoder(work), planned.jobs)))


def lines(place: Place) -> list[dict[str, Any]]:
    """All lines of the manifest, in order."""
    names = sorted(name for name, _ in place.sizes() if manifest.is_manifest(name))
    return [json.loads(line) for name in names for line in place.read(name).decode().splitlines()]


def invoke(*arguments: object) -> Result:
    """The command line."""
    return CliRunner().invoke(main, ["transcode", *map(str, arguments)])


# --- one run ----------------------------------------------------------------------------------------------------------


def test_every_picture_becomes_the_file_that_encode_makes(work: Work, source: Path, tiny: Codec) -> None:
    """The tree is kept, each file is what `Codec.encode` gives, and its record tells its figures."""
    records = {record["path"]: record for record in transcoded(work)}
    assert set(records) == set(NAMES) and {record["status"] for record in records.values()} == {"done"}
    assert records == {record["path"]: record for record in lines(work.target)}
    for name, record in records.items():
        data = work.target.read(record["output"])
        assert record["output"] == os.path.splitext(name)[0] + ".vaec" and data == tiny.encode(source / name, 60)
        expected, decoded = (np.asarray(Image.open(source / name)), tiny.decode(data, output="numpy"))
        facts = {
            "width": 56, "height": 40, "mode": "RGB", "quality": 60, "requested_quality": 60,
            "model_id": tiny.engine.model_id.hex(),
            "input_bytes": (source / name).stat().st_size, "output_bytes": len(data),
            "bpp": round(8 * len(data) / (56 * 40), 4), "psnr_db": round(pixels.psnr_db(expected, decoded), 4),
        }  # fmt: skip
        assert facts.items() <= record.items() and record["seconds"] >= 0 and ":" in record["worker"]


def test_without_a_quality_lossy_pictures_keep_their_own(work: Work, source: Path) -> None:
    """The one that `encode` chooses: 75 for lossless ones. A run with a given quality does not continue this one."""
    Image.fromarray(picture(40, 56)).save(source / "lossy.jpg", quality=40)
    auto = dataclasses.replace(work, quality=None)
    records = {record["path"]: record for record in transcoded(auto)}
    with Image.open(source / "lossy.jpg") as image:
        worth = fidelity.estimate(image, os.fspath(source / "lossy.jpg"))
    assert worth and records["lossy.jpg"]["quality"] == worth.vaec_quality < 75
    assert records["a.png"]["quality"] == 75
    assert {record["requested_quality"] for record in records.values()} == {None}
    assert not plan(auto, is_picture_name).jobs
    with pytest.raises(TargetTakenError, match="made with quality auto") as caught:
        plan(work, is_picture_name)
    assert caught.value.code == "OTHER_SETTINGS"


def test_metadata_alpha_and_lossless_pictures(work: Work, source: Path, tiny: Codec) -> None:
    """EXIF travels; the PSNR leaves alpha out, and is null where nothing was lost."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(40, 56, 4)).save(source / "alpha.png", exif=exif)
    Image.new("RGB", (30, 20), "red").save(source / "red.png")
    records = {record["path"]: record for record in transcoded(work)}
    image = tiny.decode(work.target.read("alpha.vaec"))
    assert image.getexif()[0x0112] == 6 and records["alpha.png"]["mode"] == "RGBA"
    colour = pixels.psnr_db(picture(40, 56, 4)[..., :3], np.asarray(image)[..., :3])
    assert records["alpha.png"]["psnr_db"] == round(colour, 4)
    assert records["red.png"]["psnr_db"] is None


def test_frames_that_are_left_out_are_told(work: Work, source: Path) -> None:
    """Of an animation the first frame is taken, with a warning in the record."""
    frames = [Image.fromarray(picture(24, 24, seed=n)) for n in range(2)]
    frames[0].save(source / "film.gif", save_all=True, append_images=frames[1:])
    records = {record["path"]: record for record in transcoded(work)}
    assert records["film.gif"]["warnings"] == ["a .vaec file cannot hold 1 further frame"]
    assert "warnings" not in records["a.png"]


def bad_pictures(folder: Path) -> dict[str, str]:
    """Pictures of several kinds that cannot be encoded, with the code that must be told of each."""
    png = (folder / "a.png").read_bytes()
    kinds = {"empty.png": b"", "text.jpg": b"no picture", "short.png": png[:-200], "vaec.png": b"\x89VAE" + bytes(28)}
    for name, data in kinds.items():
        (folder / name).write_bytes(data)
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(folder / "deep.png")
    Image.new("L", (1001, 1000)).save(folder / "large.png")
    (folder / "gone.png").symlink_to("nowhere")
    codes = {"empty.png": "INPUT", "text.jpg": "INPUT", "vaec.png": "VERSION", "deep.png": "BIT_DEPTH"}
    return codes | {"short.png": "IO", "large.png": "MAX_PIXELS", "gone.png": "IO"}


def test_bad_pictures_are_named_and_stop_nothing(work: Work, source: Path) -> None:
    """Each has a record with its code and a sentence, and leaves no file; the others are done."""
    codes = bad_pictures(source)
    records = {record["path"]: record for record in transcoded(work)}
    assert {name: record["code"] for name, record in records.items() if record["status"] == "failed"} == codes
    assert all(record["message"] for record in records.values() if record["status"] == "failed")
    outputs = {name for name, _ in work.target.sizes() if name.endswith(".vaec")}
    assert outputs == {os.path.splitext(name)[0] + ".vaec" for name in NAMES}


def test_a_target_that_cannot_be_written_is_told(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk fails the picture, not the run."""

    def full(place: Place, name: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "write", full)
        record = Transcoder(work)(Job("a.png", "a.vaec"))
    assert (record["status"], record["code"]) == ("failed", "IO") and "No space left" in record["message"]


def test_every_worker_must_have_the_same_weights(work: Work) -> None:
    """Files of one run never name different models."""
    with pytest.raises(VaecModelError, match="must be 00000000 on every machine") as caught:
        Transcoder(dataclasses.replace(work, model_id="00000000"))
    assert caught.value.code == "MODEL_DIFFERS"


def test_object_stores_hold_both_ends(work: Work, tiny: Codec) -> None:
    """Whatever fsspec opens is a source and a target; memory is one such store."""
    name = uuid.uuid4().hex
    source, target = open_place(f"memory://{name}/in"), open_place(f"memory://{name}/out/deep/")
    file = io.BytesIO()
    Image.fromarray(picture(24, 24)).save(file, "PNG")
    source.write("x/1.png", file.getvalue())
    there = dataclasses.replace(work, source=source, target=target)
    assert [record["output"] for record in transcoded(there)] == ["x/1.vaec"]
    assert tiny.decode(target.read("x/1.vaec")).size == (24, 24) and len(lines(target)) == 1
    assert transcoded(there) == []


# --- once and only once -----------------------------------------------------------------------------------------------

paths = st.text("abc/", min_size=1, max_size=4)


@given(st.sets(paths), st.lists(paths), st.randoms())
def test_each_job_is_answered_exactly_once(asked: set[str], answered: list[str], random: Any) -> None:
    """Whatever workers answer, in any order, twice, never, or unasked, each job gets one record; missing ones fail."""
    target = open_place(f"memory://{uuid.uuid4().hex}")
    answers = [{"path": path, "status": "done"} for path in answered]
    random.shuffle(answers)
    jobs = [Job(path, f"{path}.vaec") for path in sorted(asked)]
    records = list(run(Plan(jobs, 0, ()), target, answers))
    assert sorted(record["path"] for record in records) == sorted(asked)
    assert {record["path"] for record in records if record["status"] == "done"} == asked & set(answered)
    assert all(record["code"] == "LOST" for record in records if record["status"] == "failed")
    assert lines(target) == records


def test_a_run_that_stops_leaves_its_manifest(work: Work) -> None:
    """Records are written when the run is left, whatever the reason."""
    planned = plan(work, is_picture_name)
    running = run(planned, work.target, map(Transcoder(work), planned.jobs))
    first = next(running)
    running.close()
    assert lines(work.target) == [first]
    assert {record["path"] for record in transcoded(work)} == set(NAMES) - {first["path"]}


def test_what_is_done_is_skipped_and_what_failed_is_tried_again(work: Work, source: Path) -> None:
    """So is what has lost its file, or has one of another size."""
    (source / "bad.png").write_bytes(b"no picture")
    transcoded(work)
    assert [record["path"] for record in transcoded(work)] == ["bad.png"]
    Image.fromarray(picture(24, 24)).save(source / "bad.png")
    (Path(work.target.root) / "a.vaec").unlink()
    (Path(work.target.root) / "é.vaec").write_bytes(b"short")
    assert [record["path"] for record in transcoded(work)] == ["a.png", "bad.png", "é.png"]
    assert transcoded(work) == [] and plan(work, is_picture_name).skipped == 5


def test_one_output_belongs_to_one_picture(work: Work, source: Path) -> None:
    """The first by name has it, unless another was done before; none is overwritten by its twin."""
    (source / "é.jpg").write_bytes((source / "b/a.jpg").read_bytes())
    records = {record["path"]: record for record in transcoded(work)}
    assert records["é.jpg"]["status"] == "done" and records["é.png"]["code"] == "COLLISION"
    before = work.target.read("a.vaec")
    (source / "a.bmp").write_bytes((source / "b/a.jpg").read_bytes())
    assert {record["path"]: record["code"] for record in transcoded(work)} == {
        "a.bmp": "COLLISION", "é.png": "COLLISION",
    }  # fmt: skip
    assert work.target.read("a.vaec") == before


def test_files_of_others_are_never_overwritten(work: Work) -> None:
    """A target with .vaec files and no manifest is refused."""
    work.target.write("a.vaec", b"somebody's only copy")
    with pytest.raises(TargetTakenError, match="no manifest") as caught:
        plan(work, is_picture_name)
    assert caught.value.code == "TARGET_TAKEN"


@pytest.mark.parametrize("change", [{"quality": 61}, {"model_id": "00000000"}])
def test_one_target_has_one_quality_and_one_model(work: Work, change: dict[str, Any]) -> None:
    """Going on with other settings is refused."""
    transcoded(work)
    with pytest.raises(TargetTakenError, match="choose another target") as caught:
        plan(dataclasses.replace(work, **change), is_picture_name)
    assert caught.value.code == "OTHER_SETTINGS"


def test_manifests_of_earlier_builds_go_on(work: Work) -> None:
    """They do not record the requested quality, which was always the one of the file."""
    for record in transcoded(work):
        del record["requested_quality"]
        work.target.write(f"manifest/z{record['path'].replace('/', '_')}.jsonl", f"{json.dumps(record)}\n".encode())
    assert plan(work, is_picture_name).skipped == len(NAMES)
    with pytest.raises(TargetTakenError):
        plan(dataclasses.replace(work, quality=None), is_picture_name)


def _wait(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_run_goes_on(source: Path, tmp_path: Path, tiny: Codec) -> None:
    """SIGKILL in the middle, then the same command: every picture is in the manifest once, and every file decodes."""
    for number in range(40):
        Image.fromarray(picture(40, 56, seed=number)).save(source / f"{number}.png")
    target = tmp_path / "target"
    command = [sys.executable, "-m", "vaecodec", "transcode", source, target, "--model", tiny.model, "--quiet"]
    first = subprocess.Popen(list(map(str, command)), env={**os.environ, "OMP_NUM_THREADS": "1"})
    _wait(lambda: len(list(target.rglob("*.vaec"))) >= 5 or first.poll() is not None)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert invoke(source, target, "--model", tiny.model).exit_code == 0
    done = [record["path"] for record in lines(open_place(str(target)))]
    assert len(done) == len(set(done)) == 44 == len(list(target.rglob("*.vaec")))
    assert all(tiny.decode(path).size == (56, 40) for path in target.rglob("*.vaec"))


# --- manifest and places ----------------------------------------------------------------------------------------------


def test_the_manifest_is_written_as_it_grows(tmp_path: Path) -> None:
    """A file at the beginning, one after so many records, one after so many seconds; the last record counts."""
    place = open_place(str(tmp_path))
    with Manifest(place, records_each=2) as written:
        assert [size for _, size in place.sizes()] == [0]
        written.add({"path": "a", "n": 0})
        assert len(lines(place)) == 0
        written.add({"path": "b", "n": 1})
        assert len(lines(place)) == 2
    with Manifest(place, seconds_each=0.0) as written:
        written.add({"path": "a", "n": 2})
        assert len(lines(place)) == 3
    found = manifest.read(place, [name for name, _ in place.sizes()])
    assert {path: record["n"] for path, record in found.items()} == {"a": 2, "b": 1}


@pytest.mark.parametrize("line", ["{", "[]", '"a"', "{}", "3"])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    """The message names file and line."""
    place = open_place(str(tmp_path))
    place.write("manifest/1.jsonl", f'{{"path": "a"}}\n{line}\n'.encode())
    with pytest.raises(ManifestError, match="1.jsonl, line 2") as caught:
        manifest.read(place, ["manifest/1.jsonl"])
    assert caught.value.code == "MANIFEST"


def test_places_that_cannot_be_opened(tmp_path: Path) -> None:
    """An unknown protocol, and a folder that is not there or is a file."""
    with pytest.raises(PlaceError, match="nosuch"):
        open_place("nosuch://a/b")
    (tmp_path / "file").touch()
    for name in ("missing", "file"):
        with pytest.raises(PlaceError, match=f"{name}.*is not a folder") as caught:
            list(open_place(str(tmp_path / name)).sizes())
        assert caught.value.code == "PLACE"


# --- command line -----------------------------------------------------------------------------------------------------


def test_the_command_tells_everything(source: Path, tmp_path: Path, tiny: Codec) -> None:
    """Exit code 1 with a bad picture, a line for each; in JSON the records; 0 when nothing is left to do."""
    (source / "bad.png").write_bytes(b"no picture")
    arguments = (source, tmp_path / "target", "--model", tiny.model)
    result = invoke(*arguments)
    assert result.exit_code == 1 and "error: bad.png: not a picture" in result.stderr
    assert "a.png -> a.vaec  56 x 40, " in result.stderr and result.stderr.endswith("4 done, 1 failed\n")
    assert result.stdout == ""
    again = invoke(*arguments, "--json")
    record = {"path": "bad.png", "status": "failed", "code": "INPUT", "message": "not a picture that Pillow can read"}
    assert again.exit_code == 1 and [json.loads(line) for line in again.stdout.splitlines()] == [record]
    (source / "bad.png").unlink()
    assert invoke(*arguments).exit_code == 0
    other = invoke(source, tmp_path / "other", "--model", tiny.model, "--json")
    told = [json.loads(line) for line in other.stdout.splitlines()]
    assert told == lines(open_place(str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("missing", "out"), "'.*missing' is not a folder"),
        ((".", "nosuch://out"), "nosuch"),
        ((".", "out", "--workers", "2"), "give --ray"),
        ((".", "out", "--gpu-share", "0.5"), "give --ray"),
        ((".", "out", "--quality", "0"), "quality"),
        (("--ray", ".", "out"), "Missing argument 'DST'"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: tuple[str, ...], hint: str, tiny: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what to change."""
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments, "--model", tiny.model)
    assert result.exit_code == 2
    assert re.search(hint, result.stderr), result.stderr


def test_without_ray_a_hint_says_how_to_install_it(
    source: Path, tmp_path: Path, tiny: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--ray needs the extra [dist]."""
    monkeypatch.setitem(sys.modules, "ray", None)
    result = invoke(source, tmp_path / "target", "--model", tiny.model, "--ray")
    assert result.exit_code == 2 and "pip install 'vaecodec[dist]'" in result.stderr
    assert not (tmp_path / "target").exists()


def test_ray_does_not_keep_the_answer_to_signals() -> None:
    """Ray replaces what the program does on SIGTERM when it connects; that is put back."""

    def other(number: int, frame: object) -> None: ...

    fake = SimpleNamespace(
        init=lambda **options: signal.signal(signal.SIGTERM, other),
        data=SimpleNamespace(DataContext=SimpleNamespace(get_current=SimpleNamespace)),
    )
    before = signal.getsignal(signal.SIGTERM)
    cluster._connect(fake, cluster.Cluster())
    assert signal.getsignal(signal.SIGTERM) is before


def test_ray_prints_nothing_among_the_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """What other threads print while Ray is at work goes to standard error."""
    with cluster._own_output():
        thread = threading.Thread(target=print, args=("(raylet) something failed",))
        thread.start()
        thread.join()
        print("an answer")
    assert capsys.readouterr() == ("an answer\n", "(raylet) something failed\n")


@pytest.mark.parametrize(
    ("resources", "share", "count"), [({"CPU": 6.0}, 0.0, 6), ({"CPU": 6.0, "GPU": 2.0}, 0.25, 8), ({"GPU": 1}, 1.0, 1)]
)
def test_there_are_as_many_workers_as_places(resources: dict[str, float], share: float, count: int) -> None:
    """One a processor, or one a share of a GPU."""
    fake = SimpleNamespace(cluster_resources=lambda: resources)
    assert cluster._count_workers(fake, cluster.Cluster(gpu_share=share)) == count
