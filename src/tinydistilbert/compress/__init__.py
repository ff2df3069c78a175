"""Smaller and faster variants of a fine-tuned model: each made from a model's folder in a new folder."""
