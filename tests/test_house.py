"""Imports go one way: no circles, and no arrow from a lower floor to a higher one."""

import ast
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT

#: From the ground up. A file may import from its own folder and from floors below; folders of one floor do
#: not import each other, but for the ground, whose files are separate.
FLOORS = [
    {"errors", "files", "listing", "members", "packed", "compat", "moved", "noise", "pixels"}
    | {"events", "extras", "tables", "registration", "shipped", "signals", "hub_files"}
    | {"remote", "disk_cache", "at_hand", "path_handlers"},
    {"config", "annotations"},
    {"regions", "modeling", "photos"},
    {"solver", "checkpoint", "data"},
    {"visualization", "evaluation"},
    {"deploy"},
    {"inference"},
    {"engine", "report", "demo", "export"},
    {"study", "hub", "inspection"},
    {"commands"},
    {"__main__", "__init__"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def modules() -> dict[str, Path]:
    """Our files by module name; packages by their own."""
    names = {}
    for path in sorted((ROOT / "rmae_d2").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(module: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Our modules that a file names in its imports, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        base = parts[: len(parts) - node.level + 1] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            name = f"{source}.{alias.name}"
            found.add(name if name in known else source)
    return found & known.keys()


def room(module: str) -> str:
    """The folder or ground-floor file of a module; the package itself is ``__init__``."""
    return (module.split(".") + ["__init__"])[1]


KNOWN = modules()
GRAPH = {module: imported(module, path, KNOWN) for module, path in KNOWN.items()}


def test_every_room_has_a_floor():
    assert {room(module) for module in KNOWN} == FLOOR.keys()


def test_no_arrow_goes_up_or_sideways():
    wrong = [
        f"{module} -> {other}"
        for module, others in GRAPH.items()
        for other in others
        if room(module) != room(other)
        and FLOOR[room(other)] >= FLOOR[room(module)]
        and FLOOR[room(module)] > 0
        and other != "rmae_d2"  # for its version
    ]
    assert not wrong


def test_no_circle_of_files():
    """Peeled from below, as an import would go; packages stand for what they re-export, so not they."""
    files = {
        m: {o for o in others if KNOWN[o].name != "__init__.py"} for m, others in GRAPH.items()
    }
    left = {m: set(others) - {m} for m, others in files.items()}
    while free := [m for m, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_the_linter_sees_every_file():
    command = [sys.executable, "-m", "ruff", "check", "--show-files", "rmae_d2", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seen = {Path(line).relative_to(ROOT) for line in done.stdout.splitlines()}
    ours = {
        p.relative_to(ROOT) for room in ("rmae_d2", "tests") for p in (ROOT / room).rglob("*.py")
    }
    assert ours <= seen
