"""From text to batches: sources of documents, token blocks on disk, the order of examples, and masks."""
