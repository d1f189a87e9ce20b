"""Measurements, always against peers in the same run. Nothing here is a test."""
