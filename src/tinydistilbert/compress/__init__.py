"""Smaller and faster variants of a fine-tuned model, each made from a model folder in a new folder."""
