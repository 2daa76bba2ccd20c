"""A griffe extension for mkdocs: the docstrings' Sphinx markup, doctests and "a, b:" entries in a form that it knows.

The docstrings are written for ``help()`` and for pytest: a role such as :func:`x` would come out as text, a doctest as
a quotation of quotations, and "pre, post: images" as one parameter of that name.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([^`]+)`")
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)
_LITERAL = re.compile(r"::$", re.MULTILINE)
_PAIR = re.compile(r"^( +)(\w+), (\w+): ", re.MULTILINE)


def as_markdown(text: str) -> str:
    text = _PAIR.sub(r"\1\2: as `\3`.\n\1\3: ", text)
    text = _LITERAL.sub(":", text)
    text = _ROLE.sub(r"`\1`", text)
    return _DOCTEST.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
