"""Download files from URLs into a bounded cache shared by the processes of a node."""
