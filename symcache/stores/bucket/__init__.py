"""Buckets of object stores as stores of a symbol path."""
