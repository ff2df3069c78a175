"""Distil a BERT-like teacher into a small fast student, and prove what was kept and what was won."""

__version__ = "0.1.0"
