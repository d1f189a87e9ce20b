"""The published contract. ``python -m docs.build`` brings its generated parts up to date."""
