"""The public names: complete, sorted, documented; importing them is cheap."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lossless_codec import vaec

import vaecodec
from vaecodec import Codec

ROOT = Path(__file__).parents[1]


def test_all_is_sorted_and_resolves() -> None:
    """Every name in __all__ exists, and the list is sorted as the linter sorts it."""
    assert sorted(vaecodec.__all__) == vaecodec.__all__
    for name in vaecodec.__all__:
        assert getattr(vaecodec, name) is not None
    assert set(vaecodec.__all__) <= set(dir(vaecodec))


@pytest.mark.parametrize("name", vaecodec.__all__)
def test_public_names_are_documented(name: str) -> None:
    """Every public name and every public method has a docstring."""
    thing = getattr(vaecodec, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for method_name, method in inspect.getmembers(thing, inspect.isfunction):
            assert method_name.startswith("_") or inspect.getdoc(method), f"{name}.{method_name}"


def test_unknown_name_is_an_attribute_error() -> None:
    """The lazy module does not hide misspelt names."""
    with pytest.raises(AttributeError, match="decodee"):
        vaecodec.decodee  # noqa: B018


def test_import_loads_neither_torch_nor_numpy() -> None:
    """`import vaecodec` costs nothing but Pillow and the standard library."""
    code = "import sys, vaecodec; print([m for m in ('torch', 'numpy', 'constriction', 'click') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_every_error_has_a_place_in_the_tree() -> None:
    """All errors derive from VaecError, which is both OSError and ValueError, and stand in the drawn tree."""
    from vaecodec import errors

    classes = [thing for _, thing in inspect.getmembers(errors, inspect.isclass) if thing.__module__ == errors.__name__]
    for error in classes:
        assert issubclass(error, errors.VaecError)
        assert error.__name__ in (errors.__doc__ or "")
        assert error.__name__ in vaecodec.__all__
        assert issubclass(error, OSError) and issubclass(error, ValueError)
        raised = error("why", code="WHY", tile=3)
        assert (raised.code, raised.tile) == ("WHY", 3) and "why" in str(raised)


FUNCTIONS = {
    vaecodec.encode: Codec.encode,
    vaecodec.encode_file: Codec.encode_file,
    vaecodec.decode: Codec.decode,
    vaecodec.decode_file: Codec.decode_file,
    vaecodec.decode_region: Codec.decode_region,
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_functions_show_the_arguments_of_their_methods(function: Callable[..., Any]) -> None:
    """Name by name, with what the codec is made of; and the same documentation."""
    method = FUNCTIONS[function]
    shown, wanted = inspect.signature(function).parameters, dict(inspect.signature(method).parameters)
    del wanted["self"]
    assert list(shown)[: len(wanted)] == list(wanted)
    assert all(shown[name] == each for name, each in wanted.items())
    assert set(shown) - set(wanted) == {"model", "device", "engine"} | ({"tune"} & set(shown))
    assert not any(each.kind is each.VAR_KEYWORD for each in shown.values())
    for part in ("Args:", "Raises:", "Example:"):
        assert part in (inspect.getdoc(function) or "")


@pytest.mark.parametrize(("name", "arguments"), [
    ("encode", (np.zeros((8, 8), np.uint8),)), ("encode_file", (np.zeros((8, 8), np.uint8), "x.vaec")),
    ("decode", (b"",)), ("decode_file", (b"", "x.png")), ("decode_region", (b"", (0, 0, 1, 1))), ("verify", (b"",)),
])  # fmt: skip
def test_a_misspelt_keyword_is_a_type_error(name: str, arguments: tuple[Any, ...]) -> None:
    """Of functions and methods, it is never taken for metadata, nor passed over."""
    for callee in (getattr(vaecodec, name), getattr(Codec(), name, None)):
        if callee:
            with pytest.raises(TypeError, match="qualtiy"):
                callee(*arguments, qualtiy=50)
    with pytest.raises(TypeError, match="qualtiy"):
        Codec().encode_batch([np.zeros((8, 8), np.uint8)], qualtiy=50)  # type: ignore[call-arg]


def test_what_is_decoded_has_the_type_that_was_asked_for(tmp_path: Path) -> None:
    """A type checker knows it from `output`, of functions and methods."""
    source = tmp_path / "typed.py"
    source.write_text("""
import numpy as np, vaecodec
from PIL import Image
def f(data: bytes, codec: vaecodec.Codec) -> None:
    a: Image.Image = vaecodec.decode(data, scale=1 / 2)
    b: np.ndarray = codec.decode(data, output="numpy", on_error="partial")
    c: Image.Image = codec.decode_region(data, (0, 0, 1, 1))
    d: list[np.ndarray] = codec.decode_batch([data], output="numpy", return_errors=True)
    e: bytes = vaecodec.encode(a, 50, exif=None, xmp="<x/>", tune="psnr")
    vaecodec.decode(data, output="torch").to("cpu")
    vaecodec.decode(data, output="numpy").thumbnail((1, 1))
    vaecodec.encode(a, qualtiy=50)
    codec.decode_region(data, (0, 0, 1, 1), scale=1)
""")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent"]
    result = subprocess.run([*command, str(source)], check=False, capture_output=True, text=True, cwd=ROOT)
    wrong = sorted({int(line.split(":")[1]) for line in result.stdout.splitlines() if ": error:" in line})
    assert wrong == [11, 12, 13], result.stdout


def test_info_is_short_to_look_at() -> None:
    """One line in a console, a table in a notebook, never the bytes of metadata."""
    data = vaec(np.zeros((20, 30, 3), np.uint8), {"exif": b"II" + bytes(5000), "xmp": b"<x>&</x>"})
    info = vaecodec.info(data)
    assert len(repr(info)) < 200 and "\\x00" not in repr(info)
    for text in ("30 x 20 RGB", "quality 75", f"{len(data):,} bytes", "exif (5,002 bytes)"):
        assert text in repr(info) and text in info._repr_html_()
    assert info._repr_html_().startswith("<table>")
