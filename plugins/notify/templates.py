"""Texts with `{fields}`: nothing but names is allowed between the braces, so that no template reaches into objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter

FIELD = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
MAX_CHARS = 4000
MAX_VALUE_CHARS = 500


def check_template(key: str, template: str) -> None:
    """Raise ValueError, naming *key*, for a template that names more than fields."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{key}: {error}: write {{{{ for a brace") from None
    for _, name, spec, conversion in parts:
        if name is not None and (not FIELD.fullmatch(name) or spec or conversion):
            raise ValueError(f"{key}: a field's name between braces expected, got {name + (spec or '')!r}")


def fill(template: str, values: Mapping[str, object]) -> str:
    """Return *template* with its fields replaced; one that is not known becomes nothing."""
    words = [
        text + ("" if name is None else _said(values.get(name))) for text, name, _, _ in Formatter().parse(template)
    ]
    return " ".join("".join(words).split(" ")).strip()[:MAX_CHARS]


def _said(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "; ".join(_said(one) for one in value)[:MAX_VALUE_CHARS]
    return str(value)[:MAX_VALUE_CHARS]
