"""The HTTP service: crops in, embeddings, enrolled identities and ranked matches out."""
