"""serve: an exported model over HTTP, by the contract of text-embeddings-inference, without torch."""
