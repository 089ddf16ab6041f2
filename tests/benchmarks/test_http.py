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


def test_a_load_is_compared_with_the_bare_runtime():
    row = {"crops_per_s": 80, "p50_ms": 14, "cpu_ms": 12}
    found = http.compared(row, {"crops_per_s": 100, "p50_ms": 10, "cpu_ms": 9})
    assert found == {"bare_crops_per_s": 100, "share": 0.8, "cpu_share": 0.75, "added_ms": 4}


def test_the_plan_ends_with_arrivals_at_shares_of_what_the_most_clients_got():
    rows = {}
    seen = []
    for name, crops_per_request, work in http.plan("http://host:1", [b"a"] * 16, 32, rows):
        work.close()
        rows[name] = {"crops_per_s": 50.0}
        seen.append((name, crops_per_request))
    assert [name for name, _ in seen[:4]] == [f"{clients} clients" for clients in http.CLIENTS]
    assert seen[4] == ("8 clients, 8 crops a request", 8)
    assert [name for name, _ in seen[5:]] == [f"constant arrival, {share:.0%}" for share in http.ARRIVALS]
