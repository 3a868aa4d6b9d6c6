"""Adapters: narrow layers beside those of a model, which learn a task while the model stays as it is."""
