"""Sources of pictures: IDX files, and glyphs that are drawn."""
