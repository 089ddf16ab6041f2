"""What the documents tell people to type works: commands, flags, the README's tour, the settings, the names of tests."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.client import Client

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "service" / "console" / "samples"  # where the README's tour goes
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "service/model/README.md")


def code_lines(document: str) -> list[str]:
    """Every line of the document's fenced blocks, comments cut off."""
    blocks = re.findall(r"```\w*\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    return [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines() if line.strip()]


def inline_code(document: str) -> list[str]:
    """Every `span of code` outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL))


def module_commands() -> list[list[str]]:
    """Every documented python -m command of ours: the module and what follows it."""
    found = []
    for document in DOCUMENTS:
        for line in code_lines(document) + inline_code(document):
            if match := re.search(r"python -m ((?:training|exporter|service|gallery|benchmarks)\S*)(.*)", line):
                found.append([match[1], *shlex.split(match[2])])
    return found


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {
        word[1]
        for document in DOCUMENTS
        for line in code_lines(document) + inline_code(document)
        if (word := re.match(r"make ([a-z]+)", line))
    }
    assert asked and asked <= targets


def programs() -> dict[tuple[str, ...], set[str]]:
    """Every documented program, with its command where it has several, and the flags that documents give it."""
    found: dict[tuple[str, ...], set[str]] = {}
    for module, *words in module_commands():
        program = (module, *words[:1]) if module in ("gallery", "service.client") else (module,)
        found.setdefault(program, set()).update(word for word in words if word.startswith("--"))
    return found


@pytest.mark.parametrize("program", sorted(programs()), ids=" ".join)
def test_documented_programs_run_and_know_their_flags(program: tuple[str, ...]) -> None:
    asked = [sys.executable, "-m", *program, "--help"]
    shown = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {flag for flag in programs()[program] if flag not in shown} == set()


def test_the_readmes_gallery_commands_work_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "var" / "gallery").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "golden" / "gallery_v2.sqlite", tmp_path / "var" / "gallery" / "gallery.sqlite")
    lines = [line for line in code_lines("README.md") if " -m gallery " in line]
    assert len(lines) == 9
    for line in lines:
        command = shlex.split(line)[1:]
        if "reembed" in command:
            continue  # tests/gallery/test_reembed.py: it wants crops and a model
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert (done.returncode, done.stderr) == (0, ""), line


def test_every_test_that_architecture_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "ARCHITECTURE.md").read_text())
    assert named and [path for path in named if not (ROOT / path).is_file()] == []


def test_every_link_between_documents_leads_somewhere() -> None:
    documents = (*DOCUMENTS, "ARCHITECTURE.md", "docs/DECISIONS.md", "docs/LOG.md", "CHANGELOG.md")
    broken = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text())
        if not ((ROOT / document).parent / link).exists()
    ]
    assert broken == []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service as a newcomer starts it: the bundled model, an empty gallery."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"REID_PORT": str(port), "REID_GALLERY": str(tmp_path_factory.mktemp("served") / "gallery")}
    process = subprocess.Popen([sys.executable, "-m", "service"], cwd=ROOT, env=os.environ | settings)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/readyz", process)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Returns when the address answers 200; after a minute fails with its last answer."""
    answer = "nothing"
    for _ in range(600):
        assert process.poll() is None, "the service ended while starting"
        try:
            found = httpx.get(url, trust_env=False)
            if found.status_code == 200:
                return
            answer = found.text
        except httpx.TransportError as error:
            answer = repr(error)
        time.sleep(0.1)
    pytest.fail(f"the service was not ready within a minute; its last answer: {answer}")


def test_the_tour_of_the_readme_works_line_by_line(served: str) -> None:
    tour = [line for line in code_lines("README.md") if line.startswith("curl ")]
    assert len(tour) >= 6 and "cd service/console/samples" in code_lines("README.md")
    for line in tour:
        words = shlex.split(line.replace("localhost:8000", served))
        answer = subprocess.run([*words, "-sS", "--fail-with-body"], cwd=SAMPLES, capture_output=True, text=True)
        assert answer.returncode == 0, f"{line}\n{answer.stdout}{answer.stderr}"


def test_the_readmes_function_beside_a_tracker_knows_a_person_again(served: str) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    track = [np.random.default_rng(seed).integers(0, 256, (64, 32, 3), dtype=np.uint8)[:, :, ::-1] for seed in range(2)]
    with Client(f"http://{served}") as reid:
        first = namespace["name"](reid, track, "door")
        again = namespace["name"](reid, track[::-1], "door")
        enrolled = reid.identity(first).entries
        reid.enroll(SAMPLES / "person-15-entrance.jpg", pid="Ada", camid="entrance")
        met = namespace["name"](reid, [SAMPLES / "person-15-garden.jpg"], "garden")
    assert first == again and len(first) == 32 and enrolled == 2
    assert met == "Ada"
