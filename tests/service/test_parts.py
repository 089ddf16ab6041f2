"""What a running service is made of."""

import logging

from service.parts import progress_line


def test_a_gallery_that_takes_long_to_open_says_how_far_it_has_come(caplog):
    now = iter([0.0, 1.9, 2.0, 3.9, 4.1])
    with caplog.at_level(logging.INFO, logger="service"):
        log = progress_line(clock=lambda: next(now))
        for done in (1, 2, 3, 4):
            log(done, 4)
    assert [record.fields for record in caplog.records] == [{"read": 2, "entries": 4}, {"read": 4, "entries": 4}]
