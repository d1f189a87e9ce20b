"""Watch online models in production."""
