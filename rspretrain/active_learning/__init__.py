"""Choose which images to label next, within a budget of labels."""
