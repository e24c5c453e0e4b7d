"""The model: architecture, integer coding, and the engines that compute it."""
