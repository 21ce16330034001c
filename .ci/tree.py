"""The tree and its imports: `make check` runs this from the project's folder.

Fails where two files import each other (by way of others too), where rooms do, where one step
imports another, where `pipelines/` holds loose modules but the named ones, or a room that the plan
does not name, or where two public things bear one name. Prints the counts, so that they can be
watched.
"""

import ast
import os
import sys
from collections import defaultdict
from pathlib import Path

import grimp

TOP = ("jobs", "pipelines", "sd_core")
LOOSE = {"config", "redact"}
ROOMS = {
    "browse", "engine", "plan", "prompts", "report", "revisions", "rows", "rules", "run", "sources",
    "steps", "training", "verify", "workflows",
}  # fmt: skip


_TABLE = "pipelines.steps.kinds"  # above the steps that it names


def room(module: str, packages: set[str]) -> str:
    """The package of a file, `pipelines.steps.score` for one; a loose module is its own room."""
    parts = module.split(".")
    if parts[0] == "jobs" and len(parts) < 3:
        return "jobs"
    if module == _TABLE:
        return module
    is_step = parts[:2] == ["pipelines", "steps"] and ".".join(parts[:3]) in packages
    return ".".join(parts[: 3 if is_step else 2])


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, of two nodes or more (Tarjan's algorithm, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(arrows[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            group = sorted(stack[at:])
            del stack[at:]
            if len(group) > 1:
                found.append(group)

    sys.setrecursionlimit(10_000)
    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return found


def names_of_two() -> list[str]:
    """Public classes and functions of the packages that bear one name in two files."""
    places: dict[str, list[str]] = defaultdict(list)
    for package in ("pipelines", "sd_core"):
        for path in sorted(Path(package).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_":
                    places[node.name].append(str(path))
    return [f"{name}: {', '.join(found)}" for name, found in places.items() if len(found) > 1]


def main() -> int:
    """Print the counts and each fault; 1 where there is one."""
    sys.path.insert(0, os.getcwd())
    graph = grimp.build_graph(*TOP, cache_dir=None)
    files: dict[str, set[str]] = {
        name: set(graph.find_modules_directly_imported_by(name)) for name in graph.modules
    }
    rooms: dict[str, set[str]] = defaultdict(set)
    folders = {name for name in files if graph.find_children(name)}
    for name, imported in files.items():
        here = room(name, folders)
        rooms[here] |= {room(other, folders) for other in imported} - {here}
    arrows = sum(len(imported) for imported in rooms.values())
    inside = set(graph.find_children("pipelines"))
    loose = {name.split(".")[1] for name in inside - folders}
    packages = {name.split(".")[1] for name in inside & folders}
    file_circles, room_circles = circles(files), circles(rooms)
    print(
        f"tree: {len(rooms)} packages and loose modules, {arrows} imports between them, "
        f"{len(file_circles)} circles of files, {len(room_circles)} of packages"
    )
    faults = [f"files import each other: {', '.join(group)}" for group in file_circles]
    faults += [f"packages import each other: {', '.join(group)}" for group in room_circles]
    steps = {name for name in rooms if name.startswith("pipelines.steps.")} - {_TABLE}
    for step in sorted(steps):
        faults += [f"{step} imports {other}: steps never do" for other in rooms[step] & steps]
    faults += [f"pipelines/{name}.py is a loose module" for name in sorted(loose - LOOSE)]
    faults += [f"pipelines/{name} is no room of the plan" for name in sorted(packages - ROOMS)]
    faults += [f"two things of one name, {found}" for found in names_of_two()]
    for fault in faults:
        print(f"tree: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
