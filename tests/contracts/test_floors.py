"""No version with a known hole is asked for or pinned: floors from advisories that concern what this project does."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
# Package -> the first version that is mended, and of what.
FLOORS = {
    "starlette": "1.3.1",  # CVE-2026-54283: limits of urlencoded forms were ignored
    "python-multipart": "0.0.31",  # the series of 2026: preamble and epilogue, part headers, negative lengths, RFC 2231 names
    "torch": "2.10",  # CVE-2025-32434 and GHSA-63cw-57p8-fm3p: weights_only ran code, and corrupted memory
    "onnx": "1.21",  # CVE-2026-27489 and CVE-2026-34445: external data escaped the model's folder
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = [Requirement(text) for one in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()) for text in one]
PINNED = dict(
    line.split(" ;")[0].strip().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)


def least(requirement: Requirement) -> Version:
    """The lowest version that a requirement admits; 0 where it names none."""
    return max((Version(one.version) for one in requirement.specifier if one.operator in (">=", "==")), default=Version("0"))


@pytest.mark.parametrize("name", FLOORS)
def test_no_version_with_a_known_hole_is_admitted(name):
    found = [least(requirement) for requirement in ASKED if requirement.name == name]
    assert found and min(found) >= Version(FLOORS[name])


@pytest.mark.parametrize("name", FLOORS)
def test_what_is_pinned_is_above_its_floor(name):
    assert Version(PINNED[name]) >= Version(FLOORS[name])


def test_whatever_is_asked_for_directly_has_a_floor_and_its_pin_keeps_to_it():
    outside = {"bnneck-reid", "faiss-gpu", "onnxruntime-gpu"}  # itself; and what one lock for CPUs cannot hold beside the others
    asked = [requirement for requirement in ASKED if requirement.name not in outside]
    assert [requirement.name for requirement in asked if least(requirement) == Version("0")] == []
    assert [str(one) for one in asked if not one.specifier.contains(PINNED[one.name])] == []
