"""What streamapp is measured against: the same job, written for other frameworks as their documentation has it.

Each module is run as a process of its own. The sums they keep are in :mod:`benchmarks.contestants.sums`, so that what
differs is how records come in, how they are joined and how they are brought to the sums.
"""
