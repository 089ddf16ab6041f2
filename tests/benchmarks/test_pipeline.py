"""The pipeline benchmark on a double of the embedder."""

import numpy as np

from benchmarks import http, pipeline
from service.manifest import ModelInfo


class Double:
    """Embeds every crop as zeros and counts them."""

    provider, batch_max = "none", 16

    def __init__(self):
        names = {"input_name": "crops", "output_name": "embeddings", "manifest": {}}
        self.model, self.num_crops = ModelInfo("f" * 64, "5" * 64, 4, 32, 16, thresholds=None, **names), 0

    def embed(self, crops):
        assert crops.shape[1:] == (32, 16, 3)
        self.num_crops += len(crops)
        return np.zeros((len(crops), 4), np.float32)


def test_every_file_goes_through_the_pipeline_once_a_call():
    embedder, files = Double(), http.jpegs(40)
    running = pipeline.Running(embedder, files, decode_threads=2)
    try:
        before = embedder.num_crops
        assert running.work() == 40
        assert embedder.num_crops - before == 40
    finally:
        running.close()


def test_every_stage_costs_something():
    costs = pipeline.stages(Double(), http.jpegs(16), num_rounds=2)
    assert list(costs) == ["hash", "decode", "resize", "stack", "infer"]
    assert costs["decode"] > 0 and costs["resize"] > 0


def test_rates_are_beside_the_bare_runtimes():
    args = pipeline.parse(["--quick", "--num-crops", "16", "--rounds", "1", "--decode-threads", "1", "--threads", "1"])
    bare, piped = pipeline.rates(Double(), http.jpegs(16), args)
    assert bare.ratio == 1
    assert piped.name == "pipeline, 1 decoding threads" and piped.error is None and piped.ratio > 0
