"""Commands of ``rn-rl``, a file each where one has more to do than to call its room."""
