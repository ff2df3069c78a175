"""ablate: the same experiment over and over, each time with one thing changed, to see which choices pay.

`base/` holds what all rows share: the teacher, and as references the scores of the teacher and of the cut that was not
distilled. `rows/NAME/seed-N/` is an ordinary run folder of the recipe with a row's settings, made by `pipeline.run`;
a finished one is never entered again, so what only its scoring needed is deleted.
"""
