"""SECURITY.md promises nothing without a test; and what no single test can show is looked for in the source."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("service", "gallery") for path in (ROOT / folder).rglob("*.py")]
SERVED = [path for path in SOURCES if "client" not in path.relative_to(ROOT).parts]
UNSAFE = {"pickle", "marshal", "shelve", "subprocess", "urllib.request", "http.client", "ftplib", "httpx", "requests"}


def functions_of(path):
    return {
        node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def rows():
    """Every row of the table, cell by cell."""
    lines = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_promise_names_a_test():
    assert len(rows()) >= 10
    assert [row[0] for row in rows() if len(row) != 4 or not re.search(r"`tests/[\w/]+\.py::test_\w+`", row[3])] == []


def test_every_test_that_is_named_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) >= len(rows())
    assert [f"{path}::{name}" for path, name in named if name not in functions_of(ROOT / path)] == []


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)


def called(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
            yield from (f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords)


def test_the_service_neither_unpickles_nor_runs_nor_fetches_anything():
    assert len(SERVED) >= 40
    for path in SERVED:
        tree = ast.parse(path.read_text())
        assert not UNSAFE & set(imported(tree)), path
        assert not {"eval", "exec", "os.system", "allow_pickle=True"} & set(called(tree)), path
