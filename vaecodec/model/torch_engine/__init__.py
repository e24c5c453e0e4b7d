"""The network on torch: layers, transforms, integer scales, and the engine that runs them."""
