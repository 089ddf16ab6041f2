"""Thin handlers, one file per resource."""
