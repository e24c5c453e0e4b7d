"""What the package never does at run time: unpickle, evaluate, start programs, use the network, check by assert."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vaecodec"
FILES = sorted(PACKAGE.rglob("*.py"))
RUN_TIME_FILES = [path for path in FILES if "training" not in path.relative_to(PACKAGE).parts]

MODULES = {
    *("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "codeop", "runpy", "ctypes", "cffi"),
    *("subprocess", "pty", "multiprocessing", "webbrowser"),
    *(
        "socket",
        "socketserver",
        "ssl",
        "http",
        "urllib",
        "urllib3",
        "requests",
        "httpx",
        "aiohttp",
        "ftplib",
        "smtplib",
    ),
}
BARE_CALLS = frozenset({"eval", "exec", "compile", "__import__", "breakpoint"})
CALLS = (
    *("torch.load", "torch.hub.", "torch.jit.", "np.load", "numpy.load", "importlib.import_module"),
    *("os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn", "os.fork"),
)
KEYWORDS = frozenset({"shell", "allow_pickle"})


def offences(source: str) -> Iterator[str]:
    """What a run-time module may not contain, one description each."""
    tree = ast.parse(source)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"line {node.lineno}: assert, which python -O drops"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"line {node.lineno}: import {name}" for name in names if name.split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            yield from _offending_call(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield from (f"line {node.lineno}: an address, {node.value!r}" for _ in range("://" in node.value))


def _offending_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    if name in BARE_CALLS or name.startswith(CALLS):
        yield f"line {call.lineno}: {name}()"
    for keyword in call.keywords:
        if keyword.arg in KEYWORDS:
            yield f"line {call.lineno}: {keyword.arg}="


# What single files are there for: our own core, a server for this machine alone, and tools of the desktop.
ALLOWED = {
    "model/native_engine/__init__.py": ("import ctypes",),
    "model/native_engine/binding.py": ("import ctypes",),
    "cli/viewer.py": ("import http", "import http.server", "an address, 'http://'"),
    "cli/installation.py": ("import subprocess",),
}


@pytest.mark.parametrize("path", RUN_TIME_FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_run_time_code_has_no_dangerous_call(path: Path) -> None:
    """No pickle, evaluation, program, network module, address, or assert as a check, but where it is listed."""
    allowed = ALLOWED.get(path.relative_to(PACKAGE).as_posix(), ())
    assert [each for each in offences(path.read_text()) if each.partition(": ")[2] not in allowed] == []


@pytest.mark.parametrize(
    "snippet",
    [
        "assert x > 0", "import pickle", "from pickle import loads", "import urllib.request", "import socket as s",
        "eval('1')", "exec(code)", "compile(code, '', 'exec')", "__import__('os')", "torch.load(path)",
        "torch.hub.load('a', 'b')", "torch.jit.load(path)", "np.load(path)", "f(allow_pickle=True)", "os.system('ls')",
        "run('ls', shell=True)", "os.execv(a, b)", "URL = 'https://example.org'", "f(f'http://{host}')",
    ],
)  # fmt: skip
def test_the_check_finds_what_it_looks_for(snippet: str) -> None:
    """Each kind of offence is seen, inside of functions, too; documentation may hold addresses."""
    assert list(offences(snippet))
    assert list(offences(f"def f():\n    '''https://example.org'''\n    {snippet}"))
    assert not list(offences("def f():\n    '''https://example.org'''\n    re.compile('assert')"))


@pytest.mark.parametrize("path", sorted(set(FILES) - set(RUN_TIME_FILES)), ids=lambda path: path.name)
def test_training_unpickles_tensors_only_and_checks_without_assert(path: Path) -> None:
    """Checkpoints are the user's own, but even they may hold nothing but tensors and plain values."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only=True" in ast.unparse(node), f"line {node.lineno}"


GUARDED = """
import sys
FORBIDDEN = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "subprocess.", "os.system", "os.exec", "os.spawn",
             "os.posix_spawn", "os.fork", "pickle.find_class")
heard = []
def guard(event, arguments):
    if event.startswith(FORBIDDEN):
        heard.append(event)
        raise RuntimeError(f"{event} {arguments}")
import torch, numpy, PIL.Image, click  # what other packages do while they are imported is theirs
sys.addaudithook(guard)
"""
EVERYTHING = """
import io, numpy
from PIL import Image
import vaecodec
from vaecodec import errors
from vaecodec.cli import conformance
y, x = numpy.mgrid[0:40, 0:56]
picture = numpy.stack([x * 4, y * 6, x + y], 2).astype(numpy.uint8)
data = vaecodec.encode(picture, 60)
assert vaecodec.decode(data, output="numpy").shape == picture.shape
vaecodec.verify(data, deep=True)
file = io.BytesIO()
Image.fromarray(picture).save(file, "VAEC", quality=40)
Image.open(file).load()
try:
    vaecodec.decode(data[:16] + b"none" + bytes(data[20:]))
except errors.VaecError as error:
    pass
try:
    vaecodec.Codec("https://example.org/weights.safetensors").encode(picture)
except errors.VaecModelError as error:
    assert error.code == "MODEL_FILE"
conformance.check_all(vaecodec.Codec(device="cpu"))
"""
CONNECT = """
import socket
try:
    socket.create_connection(("127.0.0.1", 9))
except RuntimeError:
    pass
"""


@pytest.mark.slow
def test_nothing_downloads_or_starts_programs(tmp_path: Path) -> None:
    """With Python's audit events of sockets, programs and pickles forbidden, all works, and leaves no files behind."""
    environment = {"PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)}

    def heard(script: str) -> str:
        command = [sys.executable, "-c", f"{GUARDED}{script}\nprint('heard', heard)"]
        result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()[-1]

    assert heard(EVERYTHING) == "heard []"
    assert "socket." in heard(CONNECT)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_index_shows_the_readme_without_dead_links() -> None:
    """Alone, it has no other files to link to, and no pictures; its words stay."""
    metadata, plugins = (
        pytest.importorskip(f"hatchling.{name}", reason="hatchling is not installed")
        for name in ("metadata.core", "plugin.manager")
    )
    text = metadata.ProjectMetadata(str(PACKAGE.parent), plugins.PluginManager()).core.readme
    assert text.startswith("# vaecodec") and "photographs · servers" in text
    assert not re.findall(r"\]\((?!https?://)", text) and "![" not in text
