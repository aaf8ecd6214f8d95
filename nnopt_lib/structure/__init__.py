"""A network as data: describe it, count its channels, edit it."""
