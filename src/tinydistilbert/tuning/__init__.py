"""A search for settings: Optuna runs a recipe repeatedly, each time with other settings."""
