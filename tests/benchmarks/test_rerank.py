"""The re-ranking benchmark: its drawn features, its forms against each other, and one form measured."""

import numpy as np
import pytest

from benchmarks import rerank


def test_drawn_features_are_the_same_every_time_and_of_unit_length():
    features = rerank.draw(300, 32)
    assert np.array_equal(features.gallery, rerank.draw(300, 32).gallery)
    assert (
        (len(features.query), len(features.gallery))
        == (len(features.query_ids.pids), len(features.gallery_ids.pids))
        == (52, 248)
    )
    np.testing.assert_allclose(np.linalg.norm(features.query, axis=1), 1, atol=1e-6)


def test_the_dense_form_gives_the_distances_of_ours():
    features = rerank.draw(300, 32)
    ours, dense = (np.concatenate(list(form(features))) for form in (rerank.sparse_form, rerank.dense_form))
    assert np.abs(ours - dense).max() < 1e-5


def test_lists_are_those_of_a_sort():
    differing, off = rerank.differing_lists(rerank.draw(300, 32))
    assert differing == 0 and off < 1e-6


def test_a_form_is_measured_on_the_features_of_a_file(tmp_path):
    drawn = rerank.draw(300, 32)
    ids = {"query_pids": drawn.query_ids.pids, "gallery_pids": drawn.gallery_ids.pids}
    cameras = {"query_camids": drawn.query_ids.camids, "gallery_camids": drawn.gallery_ids.camids}
    rows = {"query": drawn.query.astype(np.float16), "gallery": 2 * drawn.gallery}
    np.savez(tmp_path / "features.npz", **rows, **ids, **cameras)
    figures, kept = rerank.measure("sparse", 0, 0, tmp_path / "features.npz")
    plain, _ = rerank.measure("cosine", 300, 32, None)
    assert kept.shape == (52, 248) and (figures["queries"], figures["gallery"], figures["dim"]) == (52, 248, 32)
    assert figures["mAP"] > plain["mAP"] > 0 and figures["seconds"] > 0
    assert rerank.line(figures).split()[:4] == ["sparse", "52", "248", "32"]


def test_the_public_form_is_the_file_of_the_package_alone(tmp_path, monkeypatch):
    folder = tmp_path / "fastreid" / "evaluation"
    folder.mkdir(parents=True)
    (tmp_path / "fastreid" / "__init__.py").write_text("raise ImportError('far too much')")
    (folder / "rerank.py").write_text("def re_ranking(q_g_dist, q_q_dist, g_g_dist): return q_g_dist")
    monkeypatch.syspath_prepend(tmp_path)
    features = rerank.draw(300, 32)
    found = np.concatenate(list(rerank.public_form(features)))
    assert found**2 == pytest.approx(2 - 2 * features.query @ features.gallery.T, abs=1e-5)
