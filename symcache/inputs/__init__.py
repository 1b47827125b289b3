"""Inputs to modules: what each kind of input holds and what names its files. No network, no store."""
