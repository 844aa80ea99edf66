"""A fake quantizer's passes over memory, compiled where there is a C compiler."""
