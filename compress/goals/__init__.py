"""Goals of a compression: what they say, how they are measured on exported files, whether they are met."""
