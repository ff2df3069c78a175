"""Every durable write: atomic files and folders, locks, the cache."""
