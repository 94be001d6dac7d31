"""Controllers: one file each, loaded through the entry points `nas.controllers`."""
