"""The terms of the objective as pure functions on tensors."""
