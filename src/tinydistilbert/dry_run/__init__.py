"""The estimates behind `--dry-run`: what each stage still has to do, and the time, memory and disk that it takes.

Steps come from the functions that the stages use, the checks from `pipeline.preflight`; only the sizes of what does not
exist yet are estimated. Nothing is written, not even into the token cache.
"""
