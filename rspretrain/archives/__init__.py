"""Original layouts in, patches out: one file an archive, and the only code that knows rasterio."""
