"""The report of a run: one HTML page, one workbook, one JSON file."""
