"""The public names: complete, sorted, documented; importing them is cheap."""

import inspect
import subprocess
import sys

import pytest

import vaecodec


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
