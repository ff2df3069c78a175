"""Smaller and faster forms of a fine-tuned model: each a function from a model's folder to a new folder."""
