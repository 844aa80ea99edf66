"""Options of the two entry points, one package per application. Importing it does not import torch."""
