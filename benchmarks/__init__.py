"""Benchmarks: one script per question; each prints a table or JSON. Never part of the tests."""
