from __future__ import annotations

import re

from symcache import errors


def tree(root: type[Exception], depth: int = 0) -> list[tuple[int, str]]:
    lines = [(depth, root.__name__)]
    for each in root.__subclasses__():
        if each.__module__ == errors.__name__:
            lines += tree(each, depth + 1)
    return lines


def test_the_tree_on_top_is_the_tree_of_classes() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"^((?:  )*)([A-Z]\w+)(?:  |$)", errors.__doc__.partition("\n\n")[2], re.MULTILINE)
    assert [(len(indent) // 2, name) for indent, name in drawn] == tree(errors.SymcacheError)


def test_the_tree_names_attributes_that_exist() -> None:
    assert errors.__doc__ is not None
    for name, attributes in re.findall(r"^ *(\w+) .*\((\..*)\)$", errors.__doc__, re.MULTILINE):
        annotated = getattr(errors, name).__init__.__code__.co_varnames
        assert set(re.findall(r"\.(\w+)", attributes)) <= set(annotated), name
