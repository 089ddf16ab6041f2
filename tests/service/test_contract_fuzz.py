"""schemathesis against the live application: a short run of what fuzz_contract.py does for as long as one likes."""

import pytest

from tests.service.fuzz_contract import fuzz, live


@pytest.mark.slow
def test_no_answer_to_what_the_document_allows_or_forbids_is_wrong(tmp_path):
    (tmp_path / "fuzz").mkdir()
    with live(tmp_path) as url:
        done = fuzz(url, tmp_path / "fuzz", ["--seed", "1", "--phases", "examples,fuzzing,stateful", "--max-examples", "3"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout
