"""The search for a schedule that meets goals: Optuna proposes, trials are runs, goals are measured on files."""
