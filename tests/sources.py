"""The source text of each module of the package by its dotted name, read once for the tests that look at the house."""

from collections.abc import Mapping

from tests.write_side import PACKAGE


def _read() -> dict[str, str]:
    parts = {path: path.relative_to(PACKAGE).with_suffix("").parts for path in sorted(PACKAGE.rglob("*.py"))}
    return {
        ".".join(["autopack", *(part for part in parts[path] if part != "__init__")]): path.read_text()
        for path in parts
        if parts[path] != ("__init__",) and "versions" not in parts[path]
    }


SOURCES: Mapping[str, str] = _read()
