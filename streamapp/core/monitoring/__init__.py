"""Parts of the monitor: one model, its groups, what was known when."""
