"""The parts of the HTTP benchmark that need no service."""

from benchmarks import http


def test_a_histogram_is_what_was_added_between_two_readings():
    before = {"1.0": 5.0, "2.0": 5.0, "16.0": 9.0, "+Inf": 9.0}
    after = {"1.0": 7.0, "2.0": 7.0, "16.0": 14.0, "+Inf": 15.0}
    assert http.histogram(before, after) == {"1.0": 2, "16.0": 3, "+Inf": 1}


def test_medians_are_taken_figure_by_figure():
    assert http.medians([{"a": 1, "b": 9}, {"a": 3, "b": 1}, {"a": 2, "b": 2}]) == {"a": 2, "b": 2}


def test_drawn_files_are_jpegs_of_the_asked_number():
    files = http.jpegs(3)
    assert len(files) == 3
    assert all(file.startswith(b"\xff\xd8") for file in files)
