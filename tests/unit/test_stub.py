"""The stub of the compiled module says what the module has: no more and no less."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

import fastnl
from fastnl import _nl

STUB = ast.parse((Path(fastnl.__file__).parent / "_nl.pyi").read_text())
SPECIAL = {"__init__", "__hash__", "__eq__", "__reduce__", "__len__"}  # what a class may do beyond its names


def stub_members(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    out: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            out[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            out[node.target.id] = node
    return out


def public(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def module_members() -> dict[str, object]:
    return {
        name: value
        for name, value in vars(_nl).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", None) == _nl.__name__
    }


STUB_CLASSES = {name: node for name, node in stub_members(STUB.body).items() if isinstance(node, ast.ClassDef)}


def test_every_public_name_is_in_the_stub_and_the_other_way_round():
    assert set(stub_members(STUB.body)) == set(module_members())


@pytest.mark.parametrize("name", STUB_CLASSES)
def test_every_public_member_of_a_class_is_in_the_stub_and_the_other_way_round(name):
    real = vars(_nl)[name]
    assert inspect.isclass(real)
    said = stub_members(STUB_CLASSES[name].body)
    known = public(vars(real))
    if issubclass(real, tuple):  # a named tuple brings no member that needs saying but its fields
        known = set(real._fields)
    assert public(said) == known
    for special in set(said) - public(said):
        assert special in SPECIAL
        assert special in vars(real) or special == "__init__"


@pytest.mark.parametrize("name", STUB_CLASSES)
def test_methods_and_properties_are_not_mixed_up(name):
    real = vars(_nl)[name]
    for member, node in stub_members(STUB_CLASSES[name].body).items():
        if isinstance(node, ast.FunctionDef) and not member.startswith("_"):
            is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
            assert callable(vars(real)[member]) is not is_property, member


@pytest.mark.parametrize("name", sorted(module_members()))
def test_the_stub_says_what_it_is_for(name):
    node = stub_members(STUB.body)[name]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    assert ast.get_docstring(node)


@pytest.mark.parametrize("name", ["Address", "Neighbour", "Route", "Rule", "Visit", "Tour"])
def test_what_the_stub_calls_final_cannot_be_a_base(name):
    assert any(isinstance(d, ast.Name) and d.id == "final" for d in STUB_CLASSES[name].decorator_list)
    with pytest.raises(TypeError):
        type("Sub", (vars(_nl)[name],), {})


# -- parameters ------------------------------------------------------------------------------------

DEF = re.compile(r"^( *)(cdef class|class|def) (\w+)(?:\(((?:[^()]|\(\))*)\))?", re.MULTILINE)


def source_parameters() -> dict[str, str]:
    """What each function and method takes, as "item, index, *, end=, name=", read from the sources."""
    out: dict[str, str] = {}
    for path in sorted((Path(fastnl.__file__).parent / "nl").glob("*.pxi")):
        owner = ""
        for indent, kind, name, inside in DEF.findall(path.read_text()):
            if not indent:
                owner = f"{name}." if kind.endswith("class") else ""
            if kind == "def":
                parameters = [bare(text) for text in inside.split(",")]
                out[owner + name.replace("__cinit__", "__init__")] = ", ".join(p for p in parameters if p != "self")
    return out


def bare(declared: str) -> str:
    """ "index=" for "int index=0", "path" for "str path not None"."""
    left, equals, _ = declared.partition("=")
    return left.replace("not None", "").split()[-1] + equals if left.strip() else ""


def stub_parameters(node: ast.FunctionDef) -> str:
    plain, only = node.args.args, node.args.kwonlyargs
    required = len(plain) - len(node.args.defaults)
    out = [a.arg + ("=" if i >= required else "") for i, a in enumerate(plain) if a.arg != "self"]
    out += ["*"] if only else []
    out += [a.arg + ("=" if d is not None else "") for a, d in zip(only, node.args.kw_defaults, strict=True)]
    return ", ".join(out)


def test_parameters_are_those_of_the_sources():
    said = {name: stub_parameters(node) for name, node in stub_members(STUB.body).items() if name not in STUB_CLASSES}
    for owner, body in STUB_CLASSES.items():
        for name, node in stub_members(body.body).items():
            if isinstance(node, ast.FunctionDef) and (not name.startswith("_") or name == "__init__"):
                said[f"{owner}.{name}"] = stub_parameters(node)
    real = source_parameters()
    both = real.keys() & said.keys()
    assert len(both) > 50
    assert {name: said[name] for name in both} == {name: real[name] for name in both}
