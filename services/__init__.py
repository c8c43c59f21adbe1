"""The services of the mesh, a folder each, and the kit that they are built with."""
