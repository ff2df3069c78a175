"""demo: models side by side in the browser: a static folder, which is a Hugging Face Space too."""
