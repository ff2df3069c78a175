"""demo: models side by side in the browser, as a static folder that is also a Hugging Face Space."""
