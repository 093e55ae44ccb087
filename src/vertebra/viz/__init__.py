"""Pictures of results: drawing, plots, the HTML report."""
