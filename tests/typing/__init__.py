"""A user's code, which mypy --strict checks with the package, and pytest runs."""
