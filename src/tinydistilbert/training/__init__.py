"""The training loop with checkpoints: what adapting, distilling and fine-tuning share."""
