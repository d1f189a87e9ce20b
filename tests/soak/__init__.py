"""A long run near the capacity: whether memory, lag, checkpoints, files and threads stay as they are."""
