"""Pictures to tiles and back: where tiles lie, how one is coded, and the sweep over all of a picture."""
