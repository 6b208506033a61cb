"""What is measured, and against what: ratios to a baseline measured in the same run, because machines differ."""
