"""What files of tests set up alike. `pyproject.toml` puts `tests` on their path."""
