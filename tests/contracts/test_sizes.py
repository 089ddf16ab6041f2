"""No file over 400 lines, no function over 60 (`main` 80): the sizes of ARCHITECTURE.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("gallery", "training", "exporter", "service", "benchmarks", "tests")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
FILE_LIMIT, FUNCTION_LIMIT, MAIN_LIMIT = 400, 60, 80  # lines


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def long_functions(source: str) -> list[str]:
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = {node: (node.end_lineno or 0) - node.lineno + 1 for node in found}
    limits = {node: MAIN_LIMIT if node.name == "main" else FUNCTION_LIMIT for node in found}
    return [f"{node.name}: {sizes[node]} lines" for node in found if sizes[node] > limits[node]]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_and_its_functions_keep_to_the_limits(path):
    source = path.read_text()
    assert len(source.splitlines()) <= FILE_LIMIT
    assert long_functions(source) == []


@pytest.mark.parametrize(
    ("name", "lines", "is_long"), [("f", 60, False), ("f", 61, True), ("main", 80, False), ("main", 81, True)]
)
def test_the_limit_of_main_is_higher(name, lines, is_long):
    source = f"def {name}():\n" + "    pass\n" * (lines - 1)
    assert bool(long_functions(source)) == is_long
