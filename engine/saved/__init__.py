"""What is made of saved runs: networks, options, teachers, baselines."""
