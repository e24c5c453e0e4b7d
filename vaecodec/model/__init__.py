"""The model: what it is, its integers, and the engines that compute with it."""
