"""Results to look at: drawn predictions, plots, the HTML report."""
