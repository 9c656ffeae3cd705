"""Where a node stands among the modules, by its path."""

from __future__ import annotations

import re

ENTRY = "dense_to_delta."


def parts_of(path: str) -> tuple[str, ...]:
    """The modules above a node and its own name, outermost first.

    Names of ONNX nodes have slashes, which nest as well. An input of a part of a model stands in that part.
    """
    inside = path.removeprefix(ENTRY)
    parts = [part for part in re.split(r"[./]", inside) if part]
    if inside != path:
        parts[-1] = ENTRY + parts[-1]
    return tuple(parts)


def groups_of(paths: list[str]) -> dict[str, tuple[str, ...]]:
    """The groups that each path stands in, outermost first: modules with several of the paths, and not with all.

    A module that holds one node only is no group of its own: its name stays a part of the node's, as that of a module
    whose only content is another one stays a part of that one's. Names of groups are joined by points.
    """
    split = {path: parts_of(path) for path in paths}
    members: dict[tuple[str, ...], int] = {}
    for parts in split.values():
        for depth in range(1, len(parts)):
            members[parts[:depth]] = members.get(parts[:depth], 0) + 1
    result = {}
    for path, parts in split.items():
        groups: list[str] = []
        start = 0
        for depth in range(1, len(parts)):
            inner = members.get(parts[: depth + 1], 0) if depth + 1 < len(parts) else 0
            count = members[parts[:depth]]
            if 1 < count < len(paths) and inner != count:
                groups.append(".".join(parts[start:depth]))
                start = depth
        result[path] = tuple(groups)
    return result


def label_of(path: str, groups: tuple[str, ...]) -> str:
    """What is left of a node's path inside of its groups."""
    above = sum(len(parts_of(group)) for group in groups)
    entry = ENTRY if path.startswith(ENTRY) else ""
    return entry + "".join(re.findall(r"[^./]+[./]?|[./]", path.removeprefix(ENTRY))[above:])
