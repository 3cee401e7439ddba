//! What compiles, what is refused, and what a plan's id depends on.
