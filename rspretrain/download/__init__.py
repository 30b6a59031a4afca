"""Download files from URLs into a bounded cache that the processes of a node share."""
