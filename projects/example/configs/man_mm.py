# First in `_base_`: MMEngine reads bases in turn, and from here on it finds those that begin with `man_mm::`.
# The import statement is not for configs of this style.
__import__('man_mm')
