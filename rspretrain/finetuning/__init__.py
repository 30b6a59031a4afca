"""Fine-tuning parts: networks, targets, the supervised objective, and the report of label-fraction ablations.

The samples come from `evaluation.labels`; the training loop is `engine.finetune`.
"""
