"""Tables, figures, the page and the model card, all of them pure functions of measurements."""
