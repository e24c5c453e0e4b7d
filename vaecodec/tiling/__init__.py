"""Pictures to tiles and back: tile geometry, coding of a tile, and the sweep over a picture."""
