"""Original layouts in, patches out: one file an archive, and the only code that knows rasterio."""

from rspretrain.archives.base import Archive
from rspretrain.archives.bigearthnet import BigEarthNet
from rspretrain.archives.scenes import Aid, Folder, UcMerced

ARCHIVES: dict[str, type[Archive]] = {"bigearthnet": BigEarthNet, "ucmerced": UcMerced, "aid": Aid, "folder": Folder}
