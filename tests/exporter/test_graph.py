"""The module that is exported, still in torch."""

import numpy as np
import torch

from exporter.graph import EmbeddingGraph, normalized
from training import transforms
from training.evaluate import torch_embedder


def test_the_graph_gives_the_reference_embeddings(model, crops):
    with torch.inference_mode():
        rows = EmbeddingGraph(model)(torch.from_numpy(crops)).numpy()
    np.testing.assert_allclose(rows, torch_embedder(model)(crops), atol=1e-5)


def test_the_graph_gives_unit_rows_and_leaves_its_input_alone(model, crops):
    given = torch.from_numpy(crops.copy())
    with torch.inference_mode():
        rows = EmbeddingGraph(model)(given)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(crops)))
    assert np.array_equal(given.numpy(), crops)


def test_the_classifier_stays_behind(model):
    assert not any("classifier" in name for name in EmbeddingGraph(model).state_dict())


def test_pixels_are_normalised_as_in_training_bit_for_bit(crops):
    given = torch.from_numpy(crops)
    assert torch.equal(normalized(given), transforms.normalize(given))
