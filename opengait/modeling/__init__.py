"""Networks, their layers and their losses. Nothing here knows of files, data sets or processes."""
