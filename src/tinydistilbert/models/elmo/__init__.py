"""ELMo (Peters et al. 2018): the model, its tokenizer and its published weights."""
