"""Serves what a worker knows."""
