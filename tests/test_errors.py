"""The errors of autopack are the ones that the tree at the top of their module names."""

import re

from autopack import errors


def test_every_error_stands_in_the_tree_under_its_parent() -> None:
    drawn: dict[str, str] = {}
    above = ["AutopackError"]
    for stem, name in re.findall(r"^([│ ]*[├└]── )(\w+)", errors.__doc__ or "", re.MULTILINE):
        depth = len(stem) // 4
        above[depth:] = [name]
        drawn[name] = above[depth - 1]
    made = {
        name: found.__bases__[0].__name__
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, errors.AutopackError)
    }
    del made["AutopackError"]
    assert made == drawn
