"""Pretraining distillation: the teacher moved to a corpus, and a student that learns from it."""
