"""Data sets: what a task hands out in batches, and the readers of files that fill them."""
