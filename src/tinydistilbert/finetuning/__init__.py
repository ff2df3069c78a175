"""Task models: fine-tuning on labels, and task distillation from fine-tuned teachers."""
