"""C2SRCNN: super-resolution of photographs."""
