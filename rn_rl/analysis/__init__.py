"""Analysis of run folders: figures, plots, comparisons, and the page that shows them."""
