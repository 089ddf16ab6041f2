"""Makes tests/golden/rerank.npz: python -m tests.gallery.make_rerank_golden

Drawn embeddings of both sets, the parameters, and the re-ranked distances by the slow definition of the tests. It is not made
again: a change of the distances is a change of the definition.
"""

import numpy as np

from tests.gallery.test_rerank import GOLDEN, clustered, dense_rerank


def main() -> None:
    rng = np.random.default_rng(20261123)
    query, gallery = clustered(rng, 12, dim=16), clustered(rng, 84, dim=16)
    distances = dense_rerank(query, gallery, k1=12, k2=4, blend=0.3)
    np.savez_compressed(GOLDEN, query=query, gallery=gallery, k1=12, k2=4, distances=distances)


if __name__ == "__main__":
    main()
