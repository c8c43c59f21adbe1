"""Mutants: guards taken away one by one, to see that the tests which name them notice."""
