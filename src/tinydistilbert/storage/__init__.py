"""Durable writes: atomic files and folders, locks, the cache."""
