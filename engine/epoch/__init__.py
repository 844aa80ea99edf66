"""Inside an epoch: accumulated updates, means of losses, where a NaN comes from, where an interrupted epoch resumes."""
