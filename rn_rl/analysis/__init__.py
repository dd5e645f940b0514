"""Analysis: from run folders to figures, pictures, sentences and the page that shows them."""
