"""Teachers and students, and reading and writing their weights."""
