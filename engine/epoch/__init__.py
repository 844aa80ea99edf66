"""Inside an epoch: accumulated updates, running means of losses, and where an interrupted epoch goes on."""
