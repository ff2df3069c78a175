"""Settings found by trying: a recipe run over and over by Optuna, each time with others of its settings."""
