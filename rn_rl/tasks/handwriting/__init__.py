"""Handwriting as pen strokes, predicted point by point."""
