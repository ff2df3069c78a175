"""The stages of one recipe in order, in one run folder."""
