"""Kafka and Faust: the thin shell around the core."""
