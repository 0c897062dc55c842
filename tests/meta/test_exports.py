"""What b1 exports exists, is documented, and is all there is."""

import importlib
import pkgutil

import b1


def test_every_exported_name_exists() -> None:
    assert [] == [name for name in b1.__all__ if getattr(b1, name, None) is None]


def test_exports_are_sorted_and_have_a_home() -> None:
    assert sorted(b1.__all__, key=lambda name: (name.startswith("__"), name)) == b1.__all__
    assert {*b1.__all__} - {"__version__"} == set(b1._HOME)


def test_every_exported_name_has_a_docstring() -> None:
    assert [] == [name for name in b1._HOME if not (getattr(b1, name).__doc__ or "").strip()]


def test_every_module_says_what_it_owns() -> None:
    silent = []
    for found in pkgutil.walk_packages(b1.__path__, "b1."):
        if found.name in {"b1.__main__", "b1.server.gunicorn"}:
            continue  # executing them is their purpose
        module = importlib.import_module(found.name)
        if len((module.__doc__ or "").strip()) < 30:
            silent.append(found.name)
    assert [] == silent
