"""The torch engine: layers, transforms, integer scales, and the engine that runs them."""
