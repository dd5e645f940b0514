"""Operations in the forms that are fast for stacked networks."""
