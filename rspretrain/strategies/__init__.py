"""Where tensors live and how gradients meet: one file a strategy."""
