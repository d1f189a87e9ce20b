"""Fields of structs as documentation has them: the line beneath each in the source, in Markdown."""

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import Any


@cache
def descriptions(kind: type) -> dict[str, str]:
    """Return what the source says beneath each field of a class, by the field's name."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = markdown(str(below.value.value))
    return found


def summary(kind: type) -> str:
    """Return the first line of a class's docstring."""
    return markdown((inspect.getdoc(kind) or "").partition("\n")[0])


def markdown(text: str) -> str:
    """Return a docstring's line as Markdown that speaks JSON."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(text.split()))
    return re.sub(r"\bNone\b", "`null`", text.replace("``", "`"))


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def either(choices: Sequence[str]) -> str:
    """Return choices as a sentence has them: *a, b or c*."""
    return " or ".join(part for part in (", ".join(choices[:-1]), choices[-1]) if part)
