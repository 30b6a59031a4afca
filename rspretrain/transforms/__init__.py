"""Transforms: from a raw batch to network input, on the device, for the whole batch at once.

    inputs         raw batch -> the bands of one sensor, clipped      SensorInput, NetworkInput
    crops          where each sample is cropped and flipped           boxes, Geometry
    resample       crop, flip and resize to px x px                   two matrix products
    colour         photometric augmentation                           RGB, multispectral, SAR
    masking        which patches of a ViT are hidden                  masked objectives
    normalise      per-band scaling                                   the last step before the network
    views, shared_window, train_views    the whole chain, for objectives with random views, for
                   objectives that align two sensors, and for fine-tuning

Every random choice is drawn from the sample's seed, so it does not depend on ranks, workers or batch composition
(docs/methods.md, Keyed randomness).
"""
