"""Parts of a study in parallel processes: on this machine, or on many through Ray."""
