"""The estimates behind `--dry-run`: for each stage what is left to do, and the time, memory and disk that it takes.

Steps come from the functions that the stages use, the checks from `pipeline.preflight`; only the sizes of what was not
made yet are estimated. Nothing is written, not even into the token cache.
"""
