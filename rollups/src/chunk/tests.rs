//! The chunk format by itself.
