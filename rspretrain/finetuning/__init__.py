"""Train classifiers on labels: networks, targets and the supervised objective."""
