"""Pretraining distillation: adapt the teacher to a corpus, then train a student on its outputs."""
