//! Every cell of every set and granularity against a model that keeps lists and nothing else.

mod model;

mod against_model;

mod files;

mod guarding;
