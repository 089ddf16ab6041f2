"""Who may import whom: the rules of ARCHITECTURE.md, read from the source with ast, and proved once in a fresh process."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("gallery", "training", "exporter", "service")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

CLIENT = [path.relative_to(ROOT).as_posix() for path in SOURCES if "client" in path.parent.parts[-1:]]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

CALIBRATES = ("gallery.pairs", "gallery.bootstrap", "gallery.calibration")  # numpy alone; the running service calibrates too

# What a package may import beside the standard library and itself. A name covers its submodules.
MAY_IMPORT = {
    "gallery": {"numpy", "faiss"},
    "training": {"numpy", "PIL", "torch", "torchvision", "safetensors", "tqdm", "gallery.rerank", *CALIBRATES},
    "exporter": {"numpy", "torch", "onnx", "onnxruntime", "training"},
    "service": {
        *("numpy", "PIL", "onnxruntime", "orjson", "prometheus_client"),
        *("fastapi", "starlette", "uvicorn", "pydantic", "pydantic_settings", "python_multipart", "gallery"),
    },
}
# What single files may import on top of that.
ALSO = {
    "training/plots.py": {"matplotlib"},
    "training/calibration_plots.py": {"matplotlib"},
    # Inside a function only, see below:
    "training/evaluate.py": {"onnxruntime"},
    "gallery/commands.py": {"service.embedder", "service.crops", "service.errors"},  # python -m gallery reembed runs a model
    **{name: {"httpx"} for name in CLIENT},
    "service/tracing.py": {"opentelemetry"},
    "service/compiled.py": {"openvino"},
}


@dataclass(frozen=True)
class Import:
    """One imported module or name: `from a import b` counts as a.b, which covers both a module and a name of a module."""

    name: str
    is_at_top: bool


def imports_of(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text())
    inner = {node for function in ast.walk(tree) if isinstance(function, FUNCTIONS) for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import, wanted the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (Import(name, is_at_top=node not in inner) for name in names)


def covers(allowed: set[str], name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_imports_only_what_its_package_may(path):
    package = name_of(path).split("/")[0]
    allowed = {package} | MAY_IMPORT[package] | ALSO.get(name_of(path), set())
    strange = [one.name for one in imports_of(path) if one.name.split(".")[0] not in sys.stdlib_module_names]
    assert [name for name in strange if not covers(allowed, name)] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_imports_tests_benchmarks_or_a_command(path):
    for one in imports_of(path):
        parts = one.name.split(".")
        assert parts[0] not in {"tests", "benchmarks"}
        assert parts[0] not in PACKAGES or not {"run", "__main__"} & set(parts[1:2]), (
            f"{one.name}: commands are imported by nobody"
        )


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name in {"errors.py", "entry.py"}], ids=name_of)
def test_errors_and_entry_import_nothing_of_their_own_package(path):
    package = name_of(path).split("/")[0]
    assert [one.name for one in imports_of(path) if covers({package}, one.name)] == []


def test_the_client_imports_nothing_else_of_the_service():
    assert len(CLIENT) > 5
    imported = {one.name for name in CLIENT for one in imports_of(ROOT / name)}
    ours = {name for name in imported if covers({"service", "gallery"}, name)}
    assert {name for name in ours if not covers({"service.client", "gallery.progress"}, name)} == set()


def test_evaluation_imports_onnxruntime_inside_a_function_only():
    found = [one for one in imports_of(ROOT / "training" / "evaluate.py") if covers({"onnxruntime"}, one.name)]
    assert found
    assert not any(one.is_at_top for one in found)


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=name_of)
def test_a_package_file_is_a_docstring_and_at_most_names_its_own(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    named = [node for node in tree.body[1:] if not isinstance(node, ast.Assign)]  # __all__
    assert all(isinstance(node, ast.ImportFrom) and covers({package}, str(node.module)) for node in named)


@pytest.mark.parametrize(
    ("source", "name", "is_at_top"),
    [
        ("import torch.nn", "torch.nn", True),
        ("from training import run", "training.run", True),
        ("def f():\n    import onnxruntime", "onnxruntime", False),
        ("if True:\n    import torch", "torch", True),
    ],
)
def test_the_reader_of_imports_sees_every_form(tmp_path, source, name, is_at_top):
    (tmp_path / "module.py").write_text(source)
    assert list(imports_of(tmp_path / "module.py")) == [Import(name, is_at_top)]


def loaded_by(module: str) -> set[str]:
    """The top-level packages that a fresh process has loaded once it has imported a module."""
    ask = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_service_loads_no_training():
    loaded = loaded_by("service.app")
    assert {"service", "gallery", "fastapi"} <= loaded
    assert loaded & {"torch", "torchvision", "training", "exporter", "matplotlib", "onnx"} == set()


def test_importing_the_gallerys_commands_loads_no_service():
    loaded = loaded_by("gallery.commands")
    assert loaded & {"gallery", "service", "onnxruntime", "PIL"} == {"gallery"}
