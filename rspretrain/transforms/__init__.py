"""From a raw batch to the network's input: select bands, crop, resample, augment, mask and normalise."""
