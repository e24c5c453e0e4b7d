"""Training: data, loss, loop and export; never imported by the rest of the package."""
