"""ablate: the same experiment repeated, each time with one thing changed, to see which choices pay off.

`base/` holds what all rows share: the teacher, and as references the scores of the teacher and of the student before
distillation (the control). `rows/NAME/seed-N/` is an ordinary run folder of the recipe with a row's settings, made by
`pipeline.run`. A finished one is never entered again, so what only its scoring needed is deleted.
"""
