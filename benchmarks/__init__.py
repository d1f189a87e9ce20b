"""Measurements, always against peers in the same run. Nothing here is a test.

What does not exist is not measured: streamapp does not watch the drift of inputs yet, so its cost per prediction has no
benchmark.
"""
