"""Operations with implementations that are fast for stacked networks."""
