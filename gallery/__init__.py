"""The gallery: enrolled embeddings, durable in SQLite, searched with FAISS."""
