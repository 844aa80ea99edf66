"""Sensitivity analysis: how much quality each weight costs when it alone is pruned or quantized.

analysis.py is the entrance; evaluation.py says what is measured; changes.py what is done to a weight. The fast way is
program.py (the network as a graph), graph_rewrites.py (a cheaper graph with the same outputs) and replay.py (only what
follows the changed weight). record.py remembers, workers.py shares the work between processes, suggestion.py chooses
levels, workbook.py, plots.py and schedule.py write them down.
"""
