"""The recipe: one frozen, typed description of a whole experiment, and its TOML files."""
