"""What a running service is made of."""

import logging

from service.embedder import Embedder
from service.parts import open_embedder, progress_line


def test_a_gallery_that_takes_long_to_open_says_how_far_it_has_come(caplog):
    now = iter([0.0, 1.9, 2.0, 3.9, 4.1])
    with caplog.at_level(logging.INFO, logger="service"):
        log = progress_line(clock=lambda: next(now))
        for done in (1, 2, 3, 4):
            log(done, 4)
    assert [record.fields for record in caplog.records] == [{"read": 2, "entries": 4}, {"read": 4, "entries": 4}]


def test_the_model_is_opened_for_the_batches_that_the_settings_allow(settings, monkeypatch):
    asked = {}
    monkeypatch.setattr(Embedder, "open", lambda folder, **options: asked.update(options))
    open_embedder(settings.model_copy(update={"batch_max": 5}))
    assert asked == {"provider": "auto", "threads": 1, "batch_max": 5}
