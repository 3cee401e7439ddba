//! The numbered guarantees of a store, as functions that each implementation runs.
