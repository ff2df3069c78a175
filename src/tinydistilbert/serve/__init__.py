"""serve: an exported model over HTTP, with the API of text-embeddings-inference, without torch."""
