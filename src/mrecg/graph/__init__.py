"""Structure: capture a module, place quantizers, cut into units."""
