"""The pure core: events in, outputs out. No clock, no I/O, no logging."""
